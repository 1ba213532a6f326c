"""Measure the gain of IO binding: images per second with and without tensors that stay on the GPU.

    python zoo/benchmarks/binding.py --model simvae-celeba --batch 256 --seconds 2 --rounds 5

Measures both ways in turn, for operations that run several graphs on a batch, and reports medians.
Without a GPU it binds to CPU memory instead, which shows only the cost of binding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import repzoo
from repzoo.runtime import sessions

STAND_IN = {"CPUExecutionProvider": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="simvae-celeba")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=2, help="per measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    devices = dict(sessions.DEVICES)
    sessions.DEVICES.clear()
    without = repzoo.load(arguments.model)
    sessions.DEVICES.update(devices if without.provider in devices else STAND_IN)
    bound = repzoo.load(arguments.model)

    shape = (arguments.batch, *bound.config.input.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    on = sessions.DEVICES[bound.provider]
    print(f"{arguments.model}, batches of {arguments.batch}, {bound.provider}, bound to {on}")
    print(f"{'images/s':14}{'bound':>12}{'without':>12}{'gain':>8}")
    for name in operations(bound, pixels):
        rates: dict[repzoo.Encoder, list[float]] = {bound: [], without: []}
        for _ in range(arguments.rounds):
            for encoder, found in rates.items():
                run = operations(encoder, pixels)[name]
                found.append(arguments.batch * per_second(run, arguments.seconds))
        with_it, without_it = (statistics.median(found) for found in rates.values())
        print(f"{name:14}{with_it:12,.0f}{without_it:12,.0f}{with_it / without_it:8.2f}")


def operations(encoder: repzoo.Encoder, pixels: np.ndarray) -> dict[str, Callable[[], object]]:
    size = len(pixels)
    there: dict[str, Callable[[], object]] = {
        "embed": partial(encoder.outputs, pixels, uncertainty=True, batch_size=size)
    }
    for spec in encoder.config.probes[:1]:
        there["probe"] = partial(encoder.probe, pixels, spec.task, spec.kind, batch_size=size)
    if encoder.config.has_decoder:
        there["reconstruct"] = partial(encoder.reconstruct, pixels, batch_size=size)
    return there


def per_second(run: Callable[[], object], seconds: float) -> float:
    run()
    start, runs = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or runs == 0:
        run()
        runs += 1
    return runs / passed


if __name__ == "__main__":
    main()
