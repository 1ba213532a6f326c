"""Check that the graphs of a package give the same outputs as the run in torch."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import PackageError
from repzoo.packages.config import ModelConfig, Precision
from repzoo.runtime.encoder import Encoder

from repzoo_training.loop.trained import TrainedModel

__all__ = ["PARITY", "Parity", "check_parity", "measure_parity"]

#: Largest difference between ONNX and torch per output of the graphs.
Parity: TypeAlias = dict[str, float]

#: Largest allowed difference of an embedding, in standard deviations of the embeddings. For float32
#: the unit is at least 1.
PARITY: dict[Precision, float] = {"float32": 1e-4, "float16": 0.05, "int8": 0.5}

#: Smallest standard deviation to divide by, for embeddings that have collapsed to a point.
_SMALLEST = 1e-12


def measure_parity(encoder: Encoder, model: TrainedModel, pixels: NDArray[np.uint8]) -> Parity:
    """Measure the largest absolute difference between ONNX and torch on real images and noise.

    Args:
        encoder: the graphs.
        model: the run that they were exported from.
        pixels: real images, uint8 ``[N, H, W, C]``.

    Returns:
        One number per output. ``embedding_relative`` is the difference of the embedding divided by
        ``latents_std``, the standard deviation of the embeddings of real images.
    """
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    images = np.concatenate([pixels, noise])
    ours, torchs = encoder.outputs(images), model.outputs(images)
    parity = {name: float(np.abs(ours[name] - torchs[name]).max()) for name in ours}
    latents = torchs["embedding"][: len(pixels)]
    parity["latents_std"] = max(_SMALLEST, float(latents.std()))
    parity["embedding_relative"] = parity["embedding"] / parity["latents_std"]
    if model.decoder is not None:
        decoded = encoder.generate(latents=latents).images
        parity["images"] = float(np.abs(decoded - model.decode(latents)).max())
    return parity


def check_parity(parity: Parity, config: ModelConfig) -> None:
    """Refuse graphs whose embeddings differ from torch by more than `PARITY`.

    Raises:
        PackageError: If they do.
    """
    scale = parity["latents_std"]
    if config.precision == "float32":
        scale = max(1.0, scale)
    off, allowed = parity["embedding"], PARITY[config.precision] * scale
    if not off <= allowed:
        raise PackageError(
            f"ONNX and torch differ by {off:.2g} in the embedding; at most {allowed:.2g} is allowed"
        )
