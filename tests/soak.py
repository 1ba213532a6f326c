"""A server under mixed load for a while: ``make soak``.

Callers in threads send real images in every format at once, one request in a hundred of them bad.
Every good answer is compared with the local runtime's, every bad request must get its 4xx. Prints
what was sent, what came back and how much memory the worker had, and exits 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import repzoo
import repzoo_client
from PIL import Image
from repzoo_training.data import load

sys.path.insert(0, str(Path(__file__).parent))
from server_process import ServerProcess

CALLERS = 6
PAUSE = 0.02  # seconds between a caller's requests: load, not overload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--model", default="simvae-mnist")
    arguments = parser.parse_args()

    images = load(str(Path(__file__).parent / "data" / "mnist"), "test", progress=False).images
    encoder = repzoo.load(arguments.model, provider="cpu")
    mean, variance, _ = encoder.posterior(images)
    files = [_png(pixels) for pixels in images]
    counts: Counter[str] = Counter()
    latencies: list[float] = []
    lock = threading.Lock()
    until = time.monotonic() + 60 * arguments.minutes

    def caller(number: int, url: str) -> None:
        chance = random.Random(number)
        with repzoo_client.Client(url) as client:
            while time.monotonic() < until:
                rows = [chance.randrange(len(images)) for _ in range(chance.choice((1, 1, 4, 32)))]
                kind = "bad" if chance.random() < 0.01 else chance.choice(("arrays", "files"))
                start = time.monotonic()
                try:
                    outcome = _ask(client, arguments.model, kind, rows)
                except Exception as error:
                    outcome = f"{kind}: {type(error).__name__}: {error}"
                with lock:
                    counts[outcome] += 1
                    latencies.append(time.monotonic() - start)
                time.sleep(PAUSE)

    def _ask(client: repzoo_client.Client, model: str, kind: str, rows: list[int]) -> str:
        if kind == "bad":
            sent = [files[i] for i in rows] + [b"not an image"]
            try:
                client.embed(sent, model=model)
            except repzoo_client.InvalidImage as error:
                return "bad: refused by index" if error.index == len(rows) else "bad: WRONG index"
            return "bad: WRONGLY accepted"
        sent_images = images[rows] if kind == "arrays" else [files[i] for i in rows]
        posterior = client.posterior(sent_images, model=model)
        right = np.allclose(posterior.mean, mean[rows], atol=1e-4) and np.allclose(
            posterior.variance, variance[rows], rtol=1e-3
        )
        return f"{kind}: right" if right else f"{kind}: WRONG"

    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with ServerProcess("--models", arguments.model, "--port", "0", log=log) as server:
            url = server.wait_until_ready()
            threads = [threading.Thread(target=caller, args=(n, url)) for n in range(CALLERS)]
            for thread in threads:
                thread.start()
            memory = []
            while any(thread.is_alive() for thread in threads):
                time.sleep(5)
                memory.append(_megabytes(server.workers()))
            for thread in threads:
                thread.join()

    latencies.sort()
    total = sum(counts.values())
    print(f"{arguments.model}, {arguments.minutes:g} minutes, {CALLERS} callers")
    print(f"{total} requests, {total / (60 * arguments.minutes):.0f} a second")
    print(
        f"latency: median {1000 * statistics.median(latencies):.1f} ms, "
        f"p99 {1000 * latencies[int(0.99 * total)]:.1f} ms, longest {1000 * latencies[-1]:.0f} ms"
    )
    third = len(memory) // 3
    print(
        f"worker memory: {memory[0]:.0f} MB at first, {memory[third]:.0f} MB after a third, "
        f"{memory[-1]:.0f} MB at the end, {max(memory):.0f} MB at most"
    )
    for outcome, number in counts.most_common():
        print(f"  {number:>8} {outcome}")
    expected = {"arrays: right", "files: right", "bad: refused by index"}
    if counts.keys() - expected:
        sys.exit(1)


def _png(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def _megabytes(processes: list[psutil.Process]) -> float:
    return sum(process.memory_info().rss for process in processes) / 1e6


if __name__ == "__main__":
    main()
