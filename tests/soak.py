"""Run a server under mixed load for a while: ``make soak``.

Clients in threads send real images in every format to a server with two workers; one request in a
hundred is invalid. First they send as fast as the server responds, which gives its capacity. Then
they send at 80% of that, each request at its scheduled time even if earlier ones are late. After
one and three quarters of the time, the model is swapped for another revision; half-way, one worker
is killed. Every result is compared with the local runtime, every invalid request must get its 4xx,
and only requests in flight in the killed worker may be lost. Prints requests, outcomes and the
memory of the other worker. Exits with 1 if anything was wrong, or if in 10 minutes or more the
memory grew by 5% after the first third.
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
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
from repzoo.packages.package import write_manifest
from repzoo_training.data import load

sys.path.insert(0, str(Path(__file__).parent))
from server_process import ServerProcess

CLIENTS = 6
LOST = "lost with the killed worker"
LOAD = 0.8  # relative to the capacity


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
    seconds = 60 * arguments.minutes
    killed: list[float] = []  # times

    def client_loop(number: int, url: str, until: float, pause: float) -> None:
        """Send a request every ``pause`` seconds, and catch up after late ones."""
        chance = random.Random(number)
        due = time.monotonic() + pause * number / CLIENTS
        with repzoo_client.Client(url) as client:
            while time.monotonic() < until:
                rows = [chance.randrange(len(images)) for _ in range(chance.choice((1, 1, 4, 32)))]
                kind = "bad" if chance.random() < 0.01 else chance.choice(("arrays", "files"))
                time.sleep(max(0, due - time.monotonic()))
                start = due if pause else time.monotonic()
                due += pause
                try:
                    outcome = _ask(client, arguments.model, kind, rows)
                except repzoo_client.ServerUnreachable as error:
                    soon = any(0 <= time.monotonic() - moment < 2 for moment in killed)
                    outcome = LOST if soon else f"{kind}: {error}"
                except Exception as error:
                    outcome = f"{kind}: {type(error).__name__}: {error}"
                with lock:
                    counts[outcome] += 1
                    latencies.append(time.monotonic() - start)

    def begin(url: str, seconds: float, pause: float) -> list[threading.Thread]:
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=client_loop, args=(n, url, until, pause))
            for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        return threads

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
        package, wanted = Path(folder) / "model", Path(folder) / "wanted"
        shutil.copytree(encoder.path, package)
        wanted.write_text(f"{package}\n")
        env = {"REPZOO_SERVE_WORKERS": "2"}
        with ServerProcess("--watch", str(wanted), "--port", "0", log=log, env=env) as server:
            url = server.wait_until_ready()
            doomed, survivor = _main_workers(server)
            trial = seconds / 40
            for thread in begin(url, trial, 0):
                thread.join()
            capacity = sum(counts.values()) / trial
            latencies.clear()
            start = time.monotonic()
            threads = begin(url, seconds, CLIENTS / (LOAD * capacity))
            events = [(0.25, "swap"), (0.5, "kill"), (0.75, "swap")]
            revisions = {encoder.revision}
            memory = []
            while any(thread.is_alive() for thread in threads):
                time.sleep(min(5, seconds / 30))
                memory.append(survivor.memory_info().rss / 1e6)
                if events and time.monotonic() - start > events[0][0] * seconds:
                    if events.pop(0)[1] == "swap":
                        revisions.add(_swap(package, len(revisions)))
                    else:
                        killed.append(time.monotonic())
                        doomed.kill()
            for thread in threads:
                thread.join()
            served = _revisions(url, arguments.model)

    latencies.sort()
    total = sum(counts.values())
    print(f"{arguments.model}, {arguments.minutes:g} minutes, {CLIENTS} clients")
    print(f"{trial:.0f} seconds without a pause: {capacity:.0f} requests per second")
    print(
        f"then at {LOAD:.0%} of that: {len(latencies) / seconds:.0f} per second, {total} in total"
    )
    print(
        f"latency from the scheduled time: median {1000 * statistics.median(latencies):.1f} ms, "
        f"p99 {1000 * latencies[int(0.99 * len(latencies))]:.1f} ms, "
        f"longest {1000 * latencies[-1]:.0f} ms"
    )
    third = len(memory) // 3
    print(
        f"memory of the surviving worker: {memory[0]:.0f} MB at first, {memory[third]:.0f} MB "
        f"after a third, {memory[-1]:.0f} MB at the end, {max(memory):.0f} MB at most"
    )
    print(f"2 swaps, and one worker killed; both serve the last of {len(revisions)} revisions")
    for outcome, number in counts.most_common():
        print(f"  {number:>8} {outcome}")
    expected = {"arrays: right", "files: right", "bad: refused by index", LOST}
    if counts.keys() - expected or counts[LOST] > CLIENTS:
        sys.exit("some results were wrong, or requests were lost")
    if len(served) != 1 or len(revisions) != 3:
        sys.exit(f"the workers serve {served}")
    if arguments.minutes >= 10 and memory[-1] > 1.05 * memory[third]:
        sys.exit("memory grew")


def _main_workers(server: ServerProcess) -> list[psutil.Process]:
    """Return the two workers, without their children."""
    return [worker for worker in server.workers() if worker.ppid() == server.process.pid]


def _swap(package: Path, number: int) -> str:
    """Replace a package by another revision, in which only the card differs."""
    fresh, old = package.with_name(f"fresh-{number}"), package.with_name(f"old-{number}")
    shutil.copytree(package, fresh)
    with (fresh / "README.md").open("a") as card:
        card.write(f"\nSoak {number}.\n")
    write_manifest(fresh)
    package.rename(old)
    fresh.rename(package)
    return repzoo.Package.open(package).revision


def _revisions(url: str, model: str) -> set[str]:
    """Return the revisions that the workers serve, asking often enough to reach both."""
    found = set()
    for _ in range(20):
        with repzoo_client.Client(url) as client:
            found.add(client.model(model).revision)
    return found


def _png(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
