"""What the calls return. The shapes and names are those of the local runtime, `repzoo.Encoder`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embedding", "Generation", "Model", "Posterior", "Predictions", "Reconstruction"]


class Embedding(NamedTuple):
    """Where each image lies, and how sure that is."""

    #: float32 ``[N, D]``; with a posterior, its mean.
    embeddings: NDArray[np.float32]
    #: float32 ``[N]`` in [0, 1], a calibrated probability; None if the model has none.
    uncertainty: NDArray[np.float32] | None


class Posterior(NamedTuple):
    """``q(z|x) = N(mean, diag(variance))`` of each image."""

    #: float32 ``[N, D]``.
    mean: NDArray[np.float32]
    #: float32 ``[N, D]``, in the units of ``mean`` squared.
    variance: NDArray[np.float32]
    #: float32 ``[N]`` in [0, 1], a calibrated probability; None if the model has none.
    uncertainty: NDArray[np.float32] | None


class Reconstruction(NamedTuple):
    """What the decoder makes of each image's embedding."""

    #: uint8 ``[N, H, W, C]``.
    images: NDArray[np.uint8]
    #: float32 ``[N]``: mean squared difference from the image as the model sees it, both in [0, 1].
    error: NDArray[np.float32]


class Generation(NamedTuple):
    """Images from the model's prior, or from given latents."""

    #: uint8 ``[N, H, W, C]``.
    images: NDArray[np.uint8]
    #: float32 ``[N, D]``: what they were decoded from.
    latents: NDArray[np.float32]


class Predictions(NamedTuple):
    """What a probe says of each image."""

    #: names of the K classes.
    classes: tuple[str, ...]
    #: float32 ``[N, K]``; rows sum to one unless the probe is multi-label.
    probabilities: NDArray[np.float32]
    #: the likeliest class of each image; of a multi-label probe, all with probability 0.5 or more.
    labels: list[str] | list[list[str]]


@dataclass(frozen=True)
class Model:
    """A model that the server serves."""

    name: str
    #: sha256 of the package's manifest, in hex: it changes whenever the model does.
    revision: str
    #: the ONNX Runtime execution provider that the server runs it on.
    provider: str
    #: the operations that it has, of embed, posterior, reconstruct, generate and probe.
    capabilities: tuple[str, ...]
    #: what one request may take: ``max_bytes``, ``max_images``, ``max_pixels``, ...
    limits: Mapping[str, float]
    #: the model's record, the package's ``config.json``.
    config: Mapping[str, Any]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)`` of the arrays that it takes."""
        spec = self.config["input"]
        return spec["height"], spec["width"], spec["channels"]
