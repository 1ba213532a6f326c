"""Results of calls, with the names and shapes of the local runtime (`repzoo.Encoder`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Embedding",
    "Generation",
    "Model",
    "Neighbours",
    "Posterior",
    "Predictions",
    "Reconstruction",
]


class Embedding(NamedTuple):
    """The embedding of each image, and its uncertainty."""

    #: float32 ``[N, D]``; the mean if the model has a posterior.
    embeddings: NDArray[np.float32]
    #: float32 ``[N]`` in [0, 1], a calibrated probability; None if the model has none.
    uncertainty: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Posterior:
    """The encoder's posterior and the content posterior of each image.

    It unpacks to ``mean, variance, uncertainty``. With ``group``, each row is one thing: ``mean``
    and ``variance`` are those of the content ψ that its views share, for models trained with
    SimVAE. For other models, ``mean`` is the average embedding and ``variance`` is None.
    ``uncertainty`` is None, because it is calibrated for single images.

    Attributes:
        mean: float32 ``[N, D]``.
        variance: float32 ``[N, D]``, in the units of ``mean`` squared: ``q(z|x) = N(mean,
            diag(variance))``. None if the model has only a content posterior.
        uncertainty: float32 ``[N]`` in [0, 1], a calibrated probability; None if the model has
            none.
        content_mean: float32 ``[N, D]``: where the embedding of an undegraded picture of the same
            content lies. None if the model has no content posterior.
        content_variance: float32 ``[N, D]``: how far off ``content_mean`` may be.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    uncertainty: NDArray[np.float32] | None = None
    content_mean: NDArray[np.float32] | None = None
    content_variance: NDArray[np.float32] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.mean, self.variance, self.uncertainty))


class Reconstruction(NamedTuple):
    """Each image, decoded from its embedding."""

    #: uint8 ``[N, H, W, C]``.
    images: NDArray[np.uint8]
    #: float32 ``[N]``: mean squared difference from the preprocessed image, both in [0, 1].
    error: NDArray[np.float32]


class Generation(NamedTuple):
    """Images drawn from the model's prior or as views of a thing, or decoded from latents."""

    #: uint8 ``[N, H, W, C]``.
    images: NDArray[np.uint8]
    #: float32 ``[N, D]``: the latents that the images were decoded from.
    latents: NDArray[np.float32]


class Predictions(NamedTuple):
    """A probe's predictions for each image."""

    #: Names of the K classes.
    classes: tuple[str, ...]
    #: float32 ``[N, K]``; rows sum to one unless the probe is multi-label.
    probabilities: NDArray[np.float32]
    #: The most likely class of each image; for a multi-label probe, all classes with a probability
    #: of 0.5 or more.
    labels: list[str] | list[list[str]]


class Neighbours(NamedTuple):
    """The nearest images of the server's index to each image, nearest first."""

    #: K ids for each image: paths below the folder that was indexed. Empty for images on which
    #: the search abstained.
    ids: list[list[str]]
    #: float32 ``[N, K]``: distances by the metric of the search; NaN where there is no id.
    distances: NDArray[np.float32]
    #: float32 ``[N]`` in [0, 1], the uncertainty of the images, see `Client.uncertainty`. None if
    #: the model has none.
    uncertainty: NDArray[np.float32] | None
    #: bool ``[N]``: whether the image is more uncertain than ``abstain``.
    abstained: NDArray[np.bool_]


@dataclass(frozen=True)
class Model:
    """A model that the server serves."""

    name: str
    #: sha256 of the package's manifest, in hex; it changes whenever the model changes.
    revision: str
    #: The ONNX Runtime execution provider that runs the model on the server.
    provider: str
    #: What the model supports: embed, posterior, reconstruct, generate, probe, ``content`` for
    #: robust embeddings, ``views`` for new views of one thing, and search.
    capabilities: tuple[str, ...]
    #: Limits of one request: ``max_bytes``, ``max_images``, ``max_pixels``, ...
    limits: Mapping[str, float]
    #: The model's record: the package's ``config.json``.
    config: Mapping[str, Any]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)``, the shape of arrays that the model takes."""
        spec = self.config["input"]
        return spec["height"], spec["width"], spec["channels"]
