"""Momentum (target, teacher) networks: copies that follow as exponential moving averages."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["MomentumCopy", "cosine_momentum", "follow", "frozen_copy"]

Network = TypeVar("Network", bound=nn.Module)


class MomentumCopy(nn.Module):
    """A copy of ``source`` without gradients.

    Its batch normalisation uses the statistics of its own batches and keeps its own running
    statistics, as in the papers (He et al. 2020, MoCo; Grill et al. 2020, BYOL).
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.module = frozen_copy(source)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x)
        return y

    def follow(self, source: nn.Module, momentum: float) -> None:
        """Update every parameter: θ ← m θ + (1 − m) θ_source."""
        follow(self.module, source, momentum)


def frozen_copy(source: Network) -> Network:
    """Return a copy of ``source`` whose parameters are not trained."""
    return copy.deepcopy(source).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Update every parameter of ``target``: θ ← m θ + (1 − m) θ_source. Buffers do not change."""
    for mine, theirs in zip(target.parameters(), source.parameters(), strict=True):
        mine.lerp_(theirs, 1 - momentum)


def cosine_momentum(start: float, progress: float) -> float:
    """Return the momentum at ``progress``: 1 − (1 − m₀)(cos πt + 1)/2, from ``start`` to 1.

    Source: BYOL, Grill et al. 2020 (arXiv 2006.07733), section 3.2.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
