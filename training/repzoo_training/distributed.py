"""Data parallelism seen from an objective: what other processes embedded, as if it were here.

Processes are started by ``torchrun``; each has its share of every batch. A loss that compares
images gathers their embeddings first and is then computed, identically, by every process on the
whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["gather", "rank", "world_size"]


def world_size() -> int:
    """Number of processes W; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, by rank: ``[N, ...]`` -> ``[W·N, ...]``; differentiable.

    Every process must go on to compute the same loss from it. Each then holds the whole gradient,
    takes the rows that are its own, times W, and the mean over processes that data parallelism
    takes of parameter gradients is that of the whole batch. Nothing is sent on the way back.
    """
    if world_size() == 1:
        return x
    rows: Tensor = _Gather.apply(x.contiguous())
    return rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(rows, x)
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        own = gradients[0].chunk(world_size())[rank()]
        return world_size() * own
