"""Measure what the server adds to a large imported encoder: ``make bench``.

    python serving/benchmarks/imported.py --images 8 --seconds 30 --rounds 3

A ViT-S of random weights is imported from timm. `zoo serve` answers ``/embed`` with 8 images of
224x224 pixels per request, as safetensors, over 4 connections. The bare engine is ONNX Runtime with
the same graph and batch, in its own process. They take turns, and the server is stopped (SIGSTOP)
meanwhile. Numbers are medians of the rounds. Accepted at 0.95.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import safetensors.numpy
from wire import TENSORS, ZOO, Server, free_port, wrk

LEAST = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8, help="images per request")
    parser.add_argument("--seconds", type=float, default=30, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--package", type=Path, help="a package imported before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = arguments.package or Path(folder) / "vit-small"
        if arguments.package is None:
            words = ("timm:vit_small_patch16_224", "--weights", "random", "--licence", "none")
            done = [*ZOO, "import", *words, "--name", "vit-small", "--out", str(package)]
            subprocess.run(done, check=True, stdout=subprocess.DEVNULL)
        measure(package, arguments.images, arguments.seconds, arguments.rounds)


def measure(package: Path, count: int, seconds: float, rounds: int) -> None:
    """Print the images per second of the server and of the engine, and their ratio."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(
        package / "encoder.onnx", options, providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)
    (expected,) = session.run(["embedding"], {"images": pixels})
    name = json.loads((package / "config.json").read_bytes())["name"]
    body = safetensors.numpy.save({"images": pixels}, {"request": json.dumps({"model": name})})
    port = free_port()
    command = [*ZOO, "serve", "--models", str(package), "--port", str(port)]
    server = Server("zoo serve", command, port)
    ratios, served, alone = [], [], []
    try:
        server.wait(body, expected, TENSORS)
        for _ in range(rounds):
            with server:
                served.append(count * wrk(server.url, body, 4, seconds, TENSORS).rate)
            runs, start = 0, time.perf_counter()
            while time.perf_counter() < start + seconds:
                session.run(["embedding"], {"images": pixels})
                runs += 1
            alone.append(count * runs / (time.perf_counter() - start))
            ratios.append(served[-1] / alone[-1])
    finally:
        server.end()
    ratio = statistics.median(ratios)
    print(f"{name}, {count} images of 224x224 per request, load {os.getloadavg()[0]:.1f}")
    print(f"zoo serve         {statistics.median(served):8.1f} images/s")
    print(f"the engine alone  {statistics.median(alone):8.1f} images/s")
    print("ratios            " + " ".join(f"{each:.2f}" for each in ratios))
    good = ratio >= LEAST
    print(
        f"{'good' if good else 'BAD':6}of the engine alone: {ratio:.2f}, at least {LEAST} expected"
    )
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
