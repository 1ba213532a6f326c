"""Measure what ``robust`` costs at 64 images, as a ratio to plain embeddings.

    python serving/benchmarks/robust.py packages/simvae-mnist --seconds 10

In process, `Encoder.embed` runs with and without ``robust=True``. Over the wire, one connection
sends the same images to ``/embed`` as safetensors, with and without ``"robust": true``. The two
take turns, call by call, so that noise affects both. Times are tenth percentiles, which other load
on the machine changes least. Accepted at a ratio of 1.5.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import repzoo
import safetensors.numpy
from overload import server  # a script in this folder
from repzoo_training.data import load

IMAGES, ACCEPTED = 64, 1.5
TENSORS = "application/x-safetensors"

Call = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="packages with a content posterior")
    parser.add_argument("--seconds", type=float, default=10, help="duration of each measurement")
    arguments = parser.parse_args()
    print(f"{'':24}{'':12}{'plain ms':>10}{'robust ms':>11}{'ratio':>8}")
    for model in arguments.models:
        measure(model, arguments.seconds)


def measure(model: str, seconds: float) -> None:
    """Print both ratios of a model."""
    encoder = repzoo.load(model)
    name, channels = encoder.config.name, encoder.config.input.channels
    data = Path(__file__).parents[2] / "tests" / "data" / ("mnist" if channels == 1 else "cifar10")
    pixels = encoder.preprocess(load(str(data), "train", progress=False).images[:IMAGES])
    report(
        name,
        "in process",
        compare(lambda: encoder.embed(pixels), lambda: encoder.embed(pixels, robust=True), seconds),
    )
    requests = [
        safetensors.numpy.save(
            {"images": pixels}, {"request": json.dumps({"model": name, "robust": robust})}
        )
        for robust in (False, True)
    ]
    headers = {"Content-Type": TENSORS, "Accept": TENSORS}
    with server(model, 4096) as (port, _), httpx.Client(headers=headers, timeout=60) as http:

        def post(body: bytes) -> np.ndarray[Any, Any]:
            response = http.post(f"http://127.0.0.1:{port}/embed", content=body)
            return safetensors.numpy.load(response.raise_for_status().content)["embeddings"]

        for body, robust in zip(requests, (False, True), strict=True):
            expected = encoder.embed(pixels, robust=robust)
            np.testing.assert_allclose(post(body), expected, atol=1e-3)
        times = compare(lambda: post(requests[0]), lambda: post(requests[1]), seconds)
    report(name, "safetensors", times)


def compare(plain: Call, robust: Call, seconds: float) -> tuple[float, float]:
    """Return the seconds of both calls, which take turns."""
    times: dict[Call, list[float]] = {plain: [], robust: []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call, found in times.items():
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    plain_, robust_ = (float(np.percentile(times[call], 10)) for call in (plain, robust))
    return plain_, robust_


def report(model: str, how: str, times: tuple[float, float]) -> None:
    ratio = times[1] / times[0]
    good = "good" if ratio <= ACCEPTED else f"BAD: at most {ACCEPTED:g} expected"
    plain, robust = (1000 * each for each in times)
    print(f"{model:24}{how:12}{plain:>10.2f}{robust:>11.2f}{ratio:>8.2f}  {good}")


if __name__ == "__main__":
    main()
