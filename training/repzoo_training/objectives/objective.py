"""What every objective is to the trainer, to evaluation and to export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Objective", "Terms"]

#: Whether E_q of an ELBO's terms is taken exactly or estimated at the latents that are decoded.
Terms: TypeAlias = Literal["closed_form", "sampled"]


class Objective(nn.Module, ABC):
    """A loss over views, with the networks that it trains.

    Attributes:
        encoder: images float32 ``[N, C, H, W]`` -> (mean ``[N, D]``, log_variance ``[N, D]``).
        decoder: latents ``[N, D]`` -> logits ``[N, C, H, W]``.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @abstractmethod
    def forward(self, views: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Views float32 ``[B, J, C, H, W]`` in [0, 1] -> scalar ``loss``, terms to log."""
