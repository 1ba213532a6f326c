"""Measure how fast large photos are embedded and indexed: part of ``make bench``.

    python zoo/benchmarks/photos.py [--images 2000] [--repeats 3] [--workers 1]

Writes JPEG files of 12 megapixels to a folder, as links to a few different ones. Then it measures
in turn: libjpeg-turbo's scaled decoding alone, through Pillow, in a thread per worker; ``zoo
embed`` with as many processes that decode; and ``zoo index build``. Every process and thread is
confined to as many cores as there are workers. The package decodes JPEG files at a smaller size.

It reports medians in images per second, and the CPU time per image of all processes, which other
work on the machine hardly changes. Accepted: 0.8 of decoding alone, by CPU time, which is the same
as by images per second on idle cores.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import repzoo
from PIL import Image
from repzoo.bulk.decoding import usable_cores
from repzoo.bulk.run import embed_all
from repzoo.packages.package import write_manifest
from repzoo_client.retrieval import PosteriorIndex
from repzoo_index.embedding import open_model
from repzoo_index.folder import index_folder

_TARGET = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="simvae-celeba")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=usable_cores())
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.workers])
    print(f"load before the run: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as scratch:
        folder = _photos(Path(scratch) / "photos", arguments.images)
        package = _package(arguments.model, Path(scratch) / arguments.model)
        _measure(folder, package, arguments.repeats, arguments.workers)


def _measure(folder: Path, package: Path, repeats: int, workers: int) -> None:
    paths = sorted(folder.iterdir())
    side = 2 * max(repzoo.load(package, provider="cpu").config.input.scaled)
    ways: dict[str, Callable[[], None]] = {
        "decoding": lambda: _decode(paths, side, workers),
        "zoo embed": lambda: _embed(folder, package, workers),
        "zoo index build": lambda: _index(folder, package),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start, before = time.perf_counter(), _cpu_seconds()
            way()
            rates[name].append(len(paths) / (time.perf_counter() - start))
            costs[name].append((_cpu_seconds() - before) / len(paths))
    print(f"{package.name}, {len(paths):,} JPEG files of 12 MP, {workers} workers")
    print(f"{'':18}{'images/s':>9}{'CPU ms':>9}{'of decoding':>13}")
    least = statistics.median(costs["decoding"])
    shares = {name: least / statistics.median(each) for name, each in costs.items()}
    for name, share in shares.items():
        rate, cost = statistics.median(rates[name]), statistics.median(costs[name])
        print(f"{name:18}{rate:>9.1f}{1000 * cost:>9.1f}{share:>13.2f}")
    for name in list(ways)[1:]:
        good = "good" if shares[name] >= _TARGET else "BAD"
        print(f"{good:6}{name} of decoding: {shares[name]:.2f}, at least {_TARGET:g} expected")


def _decode(paths: list[Path], side: int, workers: int) -> None:
    def decode(path: Path) -> None:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.draft(None, (side, side))
            image.load()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(decode, paths))


def _embed(folder: Path, package: Path, workers: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        summary = embed_all(str(folder), f"{scratch}/out.parquet", str(package), workers=workers)
    assert not summary.failed


def _index(folder: Path, package: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_model(str(package), None, None) as model,
        PosteriorIndex.create(
            f"{scratch}/index",
            model=model.name,
            revision=model.revision,
            dim=model.dim,
            metric=model.metric,
        ) as index,
    ):
        report = index_folder(index, folder, model.embed)
    assert not report.bad


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _package(model: str, path: Path) -> Path:
    """Copy a model, as a package that decodes JPEG files at a smaller size."""
    shutil.copytree(repzoo.load(model, provider="cpu").path, path)
    config = json.loads((path / "config.json").read_bytes())
    config["input"]["resize"]["jpeg"] = "scaled"
    (path / "config.json").write_text(json.dumps(config))
    write_manifest(path)
    return path


def _photos(folder: Path, count: int, different: int = 4) -> Path:
    """Write JPEG files of noise of every scale, which compresses about as well as photos."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if number >= different:
            path.hardlink_to(folder / f"{number % different:05}.jpg")
            continue
        random = np.random.default_rng(number)
        total = np.zeros((3024, 4032, 3), np.float32)
        for columns in (4, 16, 64, 256, 1024):
            noise = random.integers(0, 256, (columns * 3 // 4, columns, 3), dtype=np.uint8)
            scaled = Image.fromarray(noise).resize((4032, 3024), Image.Resampling.BICUBIC)
            total += np.asarray(scaled) / 5
        total += random.normal(0, 2, (3024, 4032, 1))
        Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(path, quality=88)
    return folder


if __name__ == "__main__":
    main()
