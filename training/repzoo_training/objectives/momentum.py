"""Momentum (target, teacher) networks: copies that follow by an exponential moving average."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["MomentumCopy", "cosine_momentum", "follow", "frozen_copy"]

Network = TypeVar("Network", bound=nn.Module)


class MomentumCopy(nn.Module):
    """A copy of ``source`` that no gradient reaches.

    Batch normalisation in it normalises by its own batches and keeps its own running statistics,
    as the sources do (He et al. 2020, MoCo; Grill et al. 2020, BYOL).
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.module = frozen_copy(source)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x)
        return y

    def follow(self, source: nn.Module, momentum: float) -> None:
        """θ ← m θ + (1 − m) θ_source, of every parameter."""
        follow(self.module, source, momentum)


def frozen_copy(source: Network) -> Network:
    """A copy of ``source`` whose parameters are not trained."""
    return copy.deepcopy(source).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """θ ← m θ + (1 − m) θ_source, of every parameter of ``target``; buffers stay its own."""
    for mine, theirs in zip(target.parameters(), source.parameters(), strict=True):
        mine.lerp_(theirs, 1 - momentum)


def cosine_momentum(start: float, progress: float) -> float:
    """From ``start`` at the beginning of a run to 1 at its end: 1 − (1 − m₀)(cos πt + 1)/2.

    Source: BYOL, Grill et al. 2020 (arXiv 2006.07733), section 3.2.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
