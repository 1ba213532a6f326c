"""Whether the graphs of a package give what the run gives in torch."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import PackageError
from repzoo.packages.config import ModelConfig, Precision
from repzoo.runtime.encoder import Encoder

from repzoo_training.loop.trained import TrainedModel

__all__ = ["PARITY", "Parity", "check_parity", "measure_parity"]

#: For every output of the graphs, the largest difference between ONNX and torch.
Parity: TypeAlias = dict[str, float]

#: How far an embedding may be off: in float32 in units of the latents' standard deviation or of 1,
#: whichever is larger; with weights of fewer bits, of the standard deviation.
PARITY: dict[Precision, float] = {"float32": 1e-4, "float16": 0.05, "int8": 0.5}

#: Standard deviation of latents that have collapsed to a point, to divide by.
_SMALLEST = 1e-12


def measure_parity(encoder: Encoder, model: TrainedModel, pixels: NDArray[np.uint8]) -> Parity:
    """The largest absolute difference between ONNX and torch, on real images and on noise.

    Args:
        encoder: the graphs.
        model: the run that they were made from.
        pixels: uint8 ``[N, H, W, C]``, real images.

    Returns:
        One number for each output. ``embedding_relative`` is that of the embedding divided by
        ``latents_std``, the standard deviation of the latents of real images.
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
    """Refuse graphs that are off by more than ``PARITY``.

    Raises:
        PackageError: if they are.
    """
    scale = parity["latents_std"]
    if config.precision == "float32":
        scale = max(1.0, scale)
    off, allowed = parity["embedding"], PARITY[config.precision] * scale
    if not off <= allowed:
        raise PackageError(
            f"ONNX and torch differ by {off:.2g} in the embedding; at most {allowed:.2g} is right"
        )
