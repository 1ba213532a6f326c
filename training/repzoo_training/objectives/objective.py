"""The interface between objectives and the training loop, evaluation and export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from repzoo_training.objectives.likelihoods import Likelihood

__all__ = ["Batch", "Objective", "Parts", "Terms"]

#: Whether expectations under q in an ELBO are exact or estimated at the decoded latents.
Terms: TypeAlias = Literal["closed_form", "sampled"]


@dataclass(frozen=True)
class Batch:
    """The input of an objective in one step.

    Attributes:
        views: float32 ``[B, J, C, H, W]`` in [0, 1], J views of each of B images.
        indices: int64 ``[B]``, the positions of the images in the data set.
        generator: The source of all randomness in the objective, on the device of the views.
        epoch: How often the whole data set has been seen before this step.
        progress: The completed fraction of the run before this step, in [0, 1).
    """

    views: Tensor
    indices: Tensor
    generator: torch.Generator
    epoch: int = 0
    progress: float = 0.0

    def several_views(self, method: str) -> tuple[int, int]:
        """Return (B, J) for a method that compares the views of an image.

        Raises:
            ValueError: If J is less than 2.
        """
        B, J = self.views.shape[:2]  # noqa: N806
        if J < 2:
            raise ValueError(
                f"{method} compares the views of an image: it needs at least 2 views per image, "
                f"got {J}; set views_per_image to 2 or more"
            )
        return B, J


@dataclass(frozen=True)
class Parts:
    """The components that an objective is built from.

    Attributes:
        encoder: Images float32 ``[N, C, H, W]`` -> (mean, log_variance) ``[N, D]`` each for a
            generative method, or embedding ``[N, D]`` for any other.
        latent_dim: D.
        images: The size of the data set, for memory banks with one row per image.
        decoder: Latents ``[N, D]`` -> logits ``[N, C, H, W]``; generative methods only.
        likelihood: p(x|z); generative methods only.
    """

    encoder: nn.Module
    latent_dim: int
    images: int
    decoder: nn.Module | None = None
    likelihood: Likelihood | None = None

    def generative(self) -> tuple[nn.Module, nn.Module, Likelihood]:
        """Return encoder, decoder and likelihood.

        Raises:
            ValueError: If the recipe has no likelihood.
        """
        if self.decoder is None or self.likelihood is None:
            raise ValueError("a generative method needs a likelihood: set likelihood.kind")
        return self.encoder, self.decoder, self.likelihood


class Objective(nn.Module, ABC):
    """A loss over views, with the networks that it trains.

    Under data parallelism, each process sees its share of the batch. A loss that compares images
    calls :func:`repzoo_training.distributed.gather.gather`, so that the gradients averaged over
    processes are the gradient of the loss of the whole batch.

    Attributes:
        encoder: The representation, which is evaluated and exported: images ``[N, C, H, W]`` ->
            embedding ``[N, D]``, or (mean, log_variance) ``[N, D]`` each with a posterior.
        decoder: Latents ``[N, D]`` -> logits ``[N, C, H, W]``, or None without a decoder.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the scalar ``loss``, and terms to log."""

    def after_step(self, progress: float) -> None:
        """Hook after every update of the weights, for example to update momentum encoders.

        Args:
            progress: The completed fraction of the run, in (0, 1].
        """
