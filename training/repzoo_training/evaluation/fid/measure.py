"""Measure how far a model's images are from real ones, as Fréchet distances of features.

All distances have the same training images as reference. All use as many images as the test set
has, because the distance falls with their number.

==================  ============================================================================
``real``            the test images themselves: the best that a model can be expected to reach
``reconstructed``   their reconstructions
``generated``       images drawn from the model
==================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import UnsupportedOperation

from repzoo_training.evaluation.fid.features import Features, extract
from repzoo_training.evaluation.fid.frechet import frechet_of_features
from repzoo_training.evaluation.report import Measure
from repzoo_training.evaluation.representation import Representation

__all__ = ["measure_fid"]

#: Largest number of images on either side.
MOST_TRAIN = 20_000
MOST_TEST = 10_000

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def measure_fid(
    representation: Representation,
    make_features: Callable[[], Features],
    train: Pixels,
    test: Pixels,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> tuple[Measure, ...]:
    """Measure ``PREFIX_fid_real``, ``PREFIX_fid_reconstructed`` and ``PREFIX_fid_generated``.

    Args:
        representation: the model. It may have ``reconstruct(images)`` and
            ``generate(n, seed=...)``; without both there is nothing to measure.
        make_features: returns the feature extractor. Called only if there is something to measure.
        train: reference images, uint8 ``[M, H, W, C]``.
        test: test images, uint8 ``[N, H, W, C]``.
        seed: decides the generated images, and which training images are used if there are more
            than `MOST_TRAIN`.
        batch_size: images per call of ``reconstruct``.
        device: where to compute features; by default the GPU if there is one.
        progress: show progress bars on a terminal.
    """
    random = np.random.default_rng(seed)
    train = train[np.sort(random.permutation(len(train))[:MOST_TRAIN])]
    test = test[:MOST_TEST]
    images: dict[str, Floats | Pixels] = {"real": test}
    reconstruct: Any = getattr(representation, "reconstruct", None)
    generate: Any = getattr(representation, "generate", None)
    try:
        if reconstruct is not None:
            images["reconstructed"] = np.concatenate(
                [
                    np.asarray(reconstruct(test[start : start + batch_size]).images, np.float32)
                    for start in range(0, len(test), batch_size)
                ]
            )
        if generate is not None:
            images["generated"] = np.asarray(generate(len(test), seed=seed).images, np.float32)
    except UnsupportedOperation:
        pass
    if len(images) == 1:
        return ()
    features = make_features()
    reference = extract(features, train, device=device, progress=progress)
    measures = []
    for name, shown in images.items():
        found = extract(features, shown, device=device, progress=progress)
        value, error = frechet_of_features(found, reference)
        measures.append(
            Measure(
                name=f"{features.prefix}_fid_{name}",
                value=value,
                standard_error=error,
                n=len(shown),
                unit="squared Fréchet distance",
                protocol={
                    "features": features.description,
                    "reference": f"{len(train)} train images",
                    "seed": seed,
                },
            )
        )
    return tuple(measures)
