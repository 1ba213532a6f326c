"""Measure a pull over loopback against curl and sha256sum of the largest file.

    python zoo/benchmarks/pull.py [--mebibytes 200] [--repeats 5]

Makes a package of that size from a bundled one and serves it with ``zoo hub serve``. Then it
measures in turn, each time without a cache: curl and sha256sum of ``encoder.onnx``; a pull in a
running process, which fetches and hashes every file, checks the graphs, and flushes everything to
disk, unlike curl; and the ``zoo pull`` command, including the start of Python. It reports medians
and the share of curl's speed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from repzoo.cache.cache import Cache
from repzoo.packages.package import write_manifest
from repzoo.packages.reference import Reference

BUNDLED = Path(__file__).parents[1] / "bundled"
NAME = "simvae-mnist"
ZOO = str(Path(sys.executable).with_name("zoo"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mebibytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        package = make_package(folder / "hub", arguments.mebibytes)
        with serving(folder / "hub") as hub:
            url = f"{hub}/{NAME}/resolve/main/encoder.onnx"
            file, cache = folder / "encoder.onnx", folder / "cache"
            times: dict[str, list[float]] = {"curl": [], "pull": [], "zoo pull": []}
            # The first round warms up the file cache.
            for _ in range(arguments.repeats + 1):
                times["curl"].append(curl(url, file))
                times["pull"].append(pull(hub, cache))
                times["zoo pull"].append(command(hub, cache))
        size = package.stat().st_size
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    labels = {
        "curl": "curl, then sha256sum",
        "pull": "pull, in a running process",
        "zoo pull": "zoo pull, with its start",
    }
    print(f"{size / 1e6:.0f} MB over loopback, median of {arguments.repeats}")
    for name, label in labels.items():
        seconds = medians[name]
        ratio = medians["curl"] / seconds
        print(f"{label:28} {seconds:6.2f} s {size / seconds / 1e6:7.0f} MB/s {ratio:6.2f}")


def make_package(hub: Path, mebibytes: int) -> Path:
    """Write a package whose encoder has unused weights, and return the encoder's path."""
    package = shutil.copytree(BUNDLED / NAME, hub / NAME)
    encoder = package / "encoder.onnx"
    model = onnx.load(encoder)
    ballast = np.random.default_rng(0).random(mebibytes * 2**18, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(ballast, "ballast"))
    onnx.save(model, encoder)
    write_manifest(package)
    return encoder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder of packages and yield the hub's spec."""
    arguments = [ZOO, "hub", "serve", str(folder), "--port", "0"]
    server = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if found := re.search(r"Serving at (\S+)", line):
                yield found[1]
                return
        raise SystemExit("the server did not start")
    finally:
        server.terminate()
        server.wait()


def curl(url: str, file: Path) -> float:
    """Return the seconds that curl and sha256sum take."""
    file.unlink(missing_ok=True)
    start = time.perf_counter()
    subprocess.run(["curl", "-sfL", "-o", str(file), url], check=True)
    subprocess.run(["sha256sum", str(file)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def pull(hub: str, cache: Path) -> float:
    """Return the seconds that a pull into an empty cache takes."""
    shutil.rmtree(cache, ignore_errors=True)
    start = time.perf_counter()
    Cache(cache).pull(Reference(NAME), hub)
    return time.perf_counter() - start


def command(hub: str, cache: Path) -> float:
    """Return the seconds that the ``zoo pull`` command takes for the same."""
    shutil.rmtree(cache, ignore_errors=True)
    start = time.perf_counter()
    environment = {"REPZOO_CACHE": str(cache), "PATH": "/usr/bin:/bin"}
    subprocess.run(
        [ZOO, "pull", NAME, "--hub", hub],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
