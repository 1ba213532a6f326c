"""Communication for objectives: gathers the embeddings of all processes.

``torchrun`` starts the processes, and each gets its share of every batch. A loss that compares
images first gathers the embeddings of all processes; every process then computes the same loss on
the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["agree", "gather", "rank", "total", "world_size"]


def world_size() -> int:
    """Return the number of processes W; 1 without data parallelism."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all processes: ``[N, ...]`` -> ``[W·N, ...]``; differentiable.

    Rows are ordered by rank. Every process must compute the same loss from the result, so each one
    has the gradient for all rows. The backward pass keeps the process's own rows, times W, and
    sends nothing. Data parallelism averages parameter gradients over processes, which gives the
    gradient of the whole batch.
    """
    if world_size() == 1:
        return x
    rows: Tensor = _Gather.apply(x.contiguous())
    return rows


def agree(x: Tensor) -> Tensor:
    """Return the first process's value on all processes, for shared random draws."""
    if world_size() == 1:
        return x
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.broadcast(x, src=0)
    return x


def total(x: Tensor) -> Tensor:
    """Sum ``x``, of any shape, over all processes; differentiable.

    In contrast to :func:`gather`, each process may compute its own loss from the result: gradients
    are summed over processes as well, because all the losses depend on the sum.
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
