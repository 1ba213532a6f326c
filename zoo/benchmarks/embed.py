"""Measure the speed of ``zoo embed`` and of its two halves, decoding and the engine.

    python zoo/benchmarks/embed.py [--images 20000] [--repeats 3] [--memory]

Writes the MNIST test images in ``tests/data`` to a folder of PNG files. Then it measures in turn:
``zoo embed`` of the folder, with the engine in this process; its decoders alone; and ONNX Runtime
alone, on decoded arrays in batches of 256. It reports medians in images per second, and the share
that ``zoo embed`` reaches of each half. A pipeline cannot be faster than its slowest stage. If all
stages share the same cores, it cannot be faster than 1 / (1/decode + 1/engine).

With ``--memory`` it measures the peak memory of all processes of the command for 5,000 and 50,000
images: sampled resident sizes, with shared pages counted once per process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import repzoo
from repzoo.bulk.decoding import Batch, Decoders
from repzoo.bulk.run import embed_all
from repzoo.bulk.sources import Item

DATA = Path(__file__).parents[2] / "tests" / "data" / "mnist"
MODEL = "simvae-mnist"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.memory:
            for count in (5_000, 50_000):
                folder = make_folder(Path(scratch) / str(count), count)
                print(f"{count:6,} images: {peak_memory(folder) / 2**20:,.0f} MiB peak")
        else:
            speed(make_folder(Path(scratch) / "in", arguments.images), arguments.repeats)


def make_folder(folder: Path, count: int) -> Path:
    """Write image files, a thousand per subfolder."""
    images = pq.read_table(DATA / "test-00000-of-00001.parquet")["image"].to_pylist()
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images[number % len(images)]["bytes"])
    return folder


def speed(folder: Path, repeats: int) -> None:
    paths = sorted(folder.rglob("*.png"))
    encoder = repzoo.load(MODEL)
    pixels = encoder.preprocess(paths)
    workers = os.cpu_count() or 1
    ways: dict[str, Callable[[], object]] = {
        "zoo embed": lambda: whole(folder),
        "decode": lambda: decode_only(encoder, paths, workers),
        "engine": lambda: engine_only(encoder, pixels),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            rates[name].append(len(paths) / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    both = 1 / (1 / medians["decode"] + 1 / medians["engine"])
    print(f"{MODEL}, {len(paths):,} PNG files, {workers} decoders, median of {repeats}")
    for name, rate in medians.items():
        print(f"{name:28} {rate:10,.0f} images/s {medians['zoo embed'] / rate:6.2f}")
    ratio = medians["zoo embed"] / both
    print(f"{'decode and engine in turn':28} {both:10,.0f} images/s {ratio:6.2f}")
    slower = min(("decode", "engine"), key=lambda name: medians[name])
    print(f"the bottleneck is {'decoding' if slower == 'decode' else 'the engine'}")


def whole(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        embed_all(str(folder), f"{scratch}/out.parquet", MODEL)


def decode_only(encoder: repzoo.Encoder, paths: list[Path], workers: int) -> None:
    items = [Item(path.name, str(path)) for path in paths]
    batches = (Batch(0, items[at : at + 64]) for at in range(0, len(items), 64))
    with Decoders(encoder.config.input, workers) as decoders:
        for _ in decoders.map(batches):
            pass


def engine_only(encoder: repzoo.Encoder, pixels: np.ndarray) -> None:
    for at in range(0, len(pixels), 256):
        encoder.outputs(pixels[at : at + 256], uncertainty=True)


def peak_memory(folder: Path) -> int:
    """Return the peak memory of all processes of a run in bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        zoo = str(Path(sys.executable).with_name("zoo"))
        command = [zoo, "embed", str(folder), "--model", MODEL, "--out", f"{scratch}/out.parquet"]
        process = psutil.Popen(command, stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            size = 0
            for each in (process, *process.children(recursive=True)):
                try:
                    size += each.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, size)
            time.sleep(0.05)
    assert process.returncode == 0
    return peak


if __name__ == "__main__":
    main()
