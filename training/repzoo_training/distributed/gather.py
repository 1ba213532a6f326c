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

__all__ = ["agree", "gather", "rank", "total", "world_size"]


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


def agree(x: Tensor) -> Tensor:
    """What the first process has, on all of them: draws that must be the same everywhere."""
    if world_size() == 1:
        return x
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.broadcast(x, src=0)
    return x


def total(x: Tensor) -> Tensor:
    """The sum of all processes' ``x``, of any shape; differentiable.

    Unlike after :func:`gather`, every process may go on to a loss of its own: gradients are summed
    over processes too, as those of a term that all the losses share.
    """
    if world_size() == 1:
        return x
    y: Tensor = _Total.apply(x)
    return y


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


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(x: Tensor) -> Tensor:
    y = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(y)
    return y
