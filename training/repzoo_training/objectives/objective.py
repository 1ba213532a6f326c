"""What every objective is to the trainer, to evaluation and to export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from repzoo_training.objectives.likelihoods import Likelihood

__all__ = ["Batch", "Objective", "Parts", "Terms"]

#: Whether E_q of an ELBO's terms is taken exactly or estimated at the latents that are decoded.
Terms: TypeAlias = Literal["closed_form", "sampled"]


@dataclass(frozen=True)
class Batch:
    """What one step gives an objective.

    Attributes:
        views: float32 ``[B, J, C, H, W]`` in [0, 1], J views of each of B images.
        indices: int64 ``[B]``, which images of the data set they are.
        generator: of all randomness in the objective, on the views' device.
        epoch: times that the whole data set has been seen before this step.
        progress: share of the run before this step, in [0, 1).
    """

    views: Tensor
    indices: Tensor
    generator: torch.Generator
    epoch: int = 0
    progress: float = 0.0


@dataclass(frozen=True)
class Parts:
    """What a recipe gives an objective to be built from.

    Attributes:
        encoder: images float32 ``[N, C, H, W]`` -> (mean, log_variance) ``[N, D]`` each for a
            generative method, embedding ``[N, D]`` for any other.
        latent_dim: D.
        images: size of the data set, for memories that hold something of each image.
        decoder: latents ``[N, D]`` -> logits ``[N, C, H, W]``; generative methods only.
        likelihood: p(x|z); generative methods only.
    """

    encoder: nn.Module
    latent_dim: int
    images: int
    decoder: nn.Module | None = None
    likelihood: Likelihood | None = None

    def generative(self) -> tuple[nn.Module, nn.Module, Likelihood]:
        """Encoder, decoder and likelihood.

        Raises:
            ValueError: if the recipe names no likelihood.
        """
        if self.decoder is None or self.likelihood is None:
            raise ValueError("a generative method needs a likelihood")
        return self.encoder, self.decoder, self.likelihood


class Objective(nn.Module, ABC):
    """A loss over views, with the networks that it trains.

    Under data parallelism every process sees its share of the batch. What a loss compares across
    images it takes from :func:`repzoo_training.distributed.gather.gather`, so that the mean over
    processes of the gradients is the gradient of the loss of the whole batch.

    Attributes:
        encoder: the representation, what is evaluated and exported: images ``[N, C, H, W]`` ->
            embedding ``[N, D]``, or (mean, log_variance) ``[N, D]`` each with a posterior.
        decoder: latents ``[N, D]`` -> logits ``[N, C, H, W]``; None where nothing decodes.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar ``loss``, and terms to log."""

    def after_step(self, progress: float) -> None:
        """Called after every update of the weights: momentum encoders follow here.

        Args:
            progress: share of the run that is done, in (0, 1].
        """
