"""Memories of embeddings from earlier steps: a queue of the latest, and a bank of all images.

Both are buffers, so that checkpoints contain them, and both are written in place: the bank of a
data set is large, and copying it in every step would cost more than the loss. A loss that needs
``rows`` for its gradient must copy them first (``rows.clone()``, or ``rows[indices]``, which
copies); otherwise autograd raises an error. Under data parallelism, write the embeddings of all
processes (:func:`repzoo_training.distributed.gather.gather`), so that all memories stay equal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MemoryBank", "Queue", "last_of_same"]


class Queue(nn.Module):
    """The last ``size`` embeddings, first in, first out (MoCo, He et al. 2020, arXiv 1911.05722).

    It starts with random directions, which are easy negatives.

    Args:
        size: K.
        dim: P.

    Attributes:
        rows: float32 ``[K, P]``; of norm 1 at the start, and later whatever was pushed.
        position: int64 scalar, the oldest row, which the next push replaces first.

    Raises:
        ValueError: If ``size`` is not positive.
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"the size of a queue must be at least 1, got {size}")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim)))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, embeddings: Tensor) -> None:
        """Replace the N oldest rows by ``[N, P]``; if N exceeds K, only the last K are kept."""
        K = len(self.rows)  # noqa: N806
        embeddings = embeddings[-K:].to(self.rows)
        places = (self.position + torch.arange(len(embeddings), device=self.rows.device)) % K  # [N]
        self.rows.index_copy_(0, places, embeddings)
        self.position.add_(len(embeddings)).remainder_(K)


class MemoryBank(nn.Module):
    """One row of norm 1 per image of the data set (Wu et al. 2018, arXiv 1805.01978).

    Args:
        images: The number of rows.
        dim: P.

    Attributes:
        rows: float32 ``[images, P]``; random directions until they are first updated.
        seen: bool ``[images]``, which rows have been updated.

    Raises:
        ValueError: If ``images`` is not positive.
    """

    rows: Tensor
    seen: Tensor

    def __init__(self, images: int, dim: int) -> None:
        super().__init__()
        if images < 1:
            raise ValueError(f"a memory bank needs at least 1 image, got {images}")
        self.register_buffer("rows", F.normalize(torch.randn(images, dim)))
        self.register_buffer("seen", torch.zeros(images, dtype=torch.bool))

    @torch.no_grad()
    def update(self, indices: Tensor, embeddings: Tensor, momentum: float) -> None:
        """Update rows: v_i ← normalise(m v_i + (1 − m) z_i), for int64 ``[N]`` and ``[N, P]``.

        The first embedding of an image replaces its random row for any ``momentum``. If an image
        occurs several times in the batch, its last embedding counts.
        """
        embeddings = embeddings.to(self.rows)[last_of_same(indices)]  # [N, P]
        mixed = torch.lerp(self.rows[indices], embeddings, 1 - momentum)  # [N, P]
        rows = torch.where(self.seen[indices, None], mixed, embeddings)  # [N, P]
        self.rows.index_copy_(0, indices, F.normalize(rows))
        self.seen.index_fill_(0, indices, True)


def last_of_same(indices: Tensor) -> Tensor:
    """Return the last position with the same value: int64 ``[N]`` -> int64 ``[N]``.

    With it, all writes to one row carry the same value. Otherwise the surviving value would depend
    on chance on a GPU, and could differ between processes.
    """
    positions = torch.arange(len(indices), device=indices.device)
    same = indices[:, None] == indices[None, :]  # [N, N]
    last: Tensor = torch.where(same, positions, -1).amax(1)
    return last
