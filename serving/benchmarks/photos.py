"""Measure how fast photos are served: part of ``make bench``.

    python serving/benchmarks/photos.py --model simclr-celeba --seconds 5 --rounds 3

A 12-megapixel JPEG file, one of 500 x 375 pixels, and a PNG file of 28 x 28 pixels are sent in
forms by ``wrk``. Every server has one worker and the same model. The references:

- full: ``zoo serve`` with the same package, which decodes JPEG files at full size.
- decoding: libjpeg-turbo's scaled decoding alone, through Pillow, in a thread per core. There is no
  server, and nothing is resized or embedded.
- bentoml, litserve: their own API, with plain Pillow. LitServe may be in a separate environment
  (``--litserve PYTHON``), and is skipped if it is not installed.

Servers take turns, and the others are stopped meanwhile. Numbers are medians of the rounds.
Accepted for 12 megapixels: 5 times ``full``, 0.8 of ``decoding``, and 4 times the other servers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import repzoo
from PIL import Image
from repzoo.packages.config import InputSpec
from repzoo.packages.package import write_manifest
from wire import ZOO, Load, Server, free_port, has_litserve, median, wrk

FORM = "multipart/form-data; boundary=photos"
HERE = Path(__file__).parent
CONNECTIONS = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="simclr-celeba", help="a model with colour images")
    parser.add_argument("--seconds", type=float, default=5, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litserve", default=sys.executable, metavar="PYTHON")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is required: apt-get install wrk")
    photos = {
        "12 MP JPEG": _jpeg(4032, 3024),
        "500x375 JPEG": _jpeg(500, 375),
        "28x28 PNG": _file(_photo(28, 28), "PNG"),
    }
    print(f"load before the run: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        full, scaled = (
            _package(arguments.model, jpeg, Path(folder)) for jpeg in ("full", "scaled")
        )
        _measure(photos, full, scaled, arguments)


def _measure(
    photos: dict[str, bytes], full: Path, scaled: Path, arguments: argparse.Namespace
) -> None:
    encoder = repzoo.load(scaled, provider="cpu")
    name, spec = encoder.config.name, encoder.config.input
    servers: list[Server] = []
    results: dict[tuple[str, str], list[Load]] = defaultdict(list)
    memory: dict[str, int] = {}
    try:
        for title, path in (("zoo serve", scaled), ("full", full)):
            port = free_port()
            command = [*ZOO, "serve", "--models", str(path), "--port", str(port)]
            servers.append(Server(title, command, port))
        servers.append(_bentoml(scaled))
        if has_litserve(arguments.litserve):
            port = free_port()
            script = [arguments.litserve, str(HERE / "lit_server.py"), str(scaled), str(port)]
            servers.append(Server("litserve", script, port))
        else:
            print("LitServe is not installed and is skipped")
        for server in servers:
            small = photos["28x28 PNG"]
            # Others resize in another way, so that their embeddings differ a little.
            close = 1e-3 if server.name in ("zoo serve", "full") else 1e3
            server.wait(_form(small, name, server), encoder.embed(small), FORM, close)
        for title, data in photos.items():
            for _ in range(arguments.rounds):
                for server in servers:
                    body = _form(data, name, server)
                    with server:
                        load = wrk(server.url, body, CONNECTIONS, arguments.seconds, FORM)
                        memory[server.name] = max(memory.get(server.name, 0), server.memory)
                    results[title, server.name].append(load)
                rate = _decoding(data, spec, arguments.seconds)
                results[title, "decoding"].append(Load(rate, np.nan, np.nan))
    finally:
        for server in servers:
            server.end()
    _report(list(photos), results, memory)


def _report(
    photos: list[str], results: dict[tuple[str, str], list[Load]], memory: dict[str, int]
) -> None:
    best = {key: median(loads) for key, loads in results.items()}
    for photo in photos:
        ours = best[photo, "zoo serve"].rate
        print(f"\n{photo:16}{'images/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'ours is':>9}{'MiB':>8}")
        for (title, server), load in best.items():
            if title == photo:
                times = f"{load.p50:>9.1f}{load.p99:>9.1f}" if load.p50 > 0 else f"{'':18}"
                held = f"{memory[server] / 2**20:>8,.0f}" if server in memory else ""
                print(f"{server:16}{load.rate:>12,.1f}{times}{_ratio(ours, load.rate):>9.2f}{held}")
    first = photos[0]
    ours = best[first, "zoo serve"].rate
    print()
    limits = {"full": 5.0, "decoding": 0.8, "bentoml": 4.0, "litserve": 4.0}
    for server, limit in limits.items():
        if (first, server) in best:
            ratio = _ratio(ours, best[first, server].rate)
            good = "good" if ratio >= limit else "BAD"
            print(f"{good:6}{first} of {server}: {ratio:.2f}, at least {limit:g} expected")


def _ratio(ours: float, other: float) -> float:
    """Return infinity if the other one did not answer in time at all."""
    return ours / other if other else np.inf


def _bentoml(model: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "bento_server:Embed", "--host"]
    command += ["127.0.0.1", "--port", str(port), "--working-dir", str(HERE)]
    return Server("bentoml", command, port, {"PHOTOS_MODEL": str(model)})


def _decoding(data: bytes, spec: InputSpec, seconds: float) -> float:
    """Return the images per second that Pillow decodes in a thread per core."""
    side = 2 * max(spec.scaled)
    end = time.perf_counter() + seconds

    def decode() -> int:
        count = 0
        while time.perf_counter() < end:
            with Image.open(io.BytesIO(data)) as image:
                image.draft(None, (side, side))
                image.load()
            count += 1
        return count

    cores = os.cpu_count() or 1
    start = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        counts = [future.result() for future in [pool.submit(decode) for _ in range(cores)]]
    return sum(counts) / (time.perf_counter() - start)


def _package(model: str, jpeg: str, folder: Path) -> Path:
    """Copy a model, with this policy for JPEG files."""
    path = folder / jpeg
    shutil.copytree(repzoo.load(model, provider="cpu").path, path)
    config = json.loads((path / "config.json").read_bytes())
    config["input"]["resize"]["jpeg"] = jpeg
    (path / "config.json").write_text(json.dumps(config))
    write_manifest(path)
    return path


def _form(data: bytes, model: str, server: Server) -> bytes:
    head = b'--photos\r\nContent-Disposition: form-data; name="'
    fields = b""
    if server.name in ("zoo serve", "full"):
        fields = head + f'model"\r\n\r\n{model}\r\n'.encode()
    kind = "image/png" if data[:1] == b"\x89" else "image/jpeg"
    file = head + f'images"; filename="photo"\r\nContent-Type: {kind}\r\n\r\n'.encode()
    return fields + file + data + b"\r\n--photos--\r\n"


def _photo(width: int, height: int) -> Image.Image:
    """Return noise of every scale, which compresses about as well as a photo."""
    random = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    for columns in (4, 16, 64, 256, 1024):
        shape = (max(2, columns * height // width), columns, 3)
        noise = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / 5
    total += random.normal(0, 2, (height, width, 1))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def _jpeg(width: int, height: int) -> bytes:
    return _file(_photo(width, height), "JPEG", quality=88)


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
