"""Memories of what other steps embedded: a queue of the latest, a bank with a row an image.

Both are buffers, so that checkpoints hold them, and both are written in place: a data set's bank
is large, and a copy of it at every step would cost more than the loss. A loss that keeps ``rows``
for its gradient must take a copy (``rows.clone()``, or ``rows[indices]``, which is one);
autograd refuses the gradient if it did not. Under data parallelism, write what all processes
embedded (:func:`repzoo_training.distributed.gather.gather`), and the memories stay equal.
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
        rows: float32 ``[K, P]``, of norm 1 at the start and whatever was pushed later.
        position: int64 scalar, the oldest row, which the next push replaces first.

    Raises:
        ValueError: if ``size`` is not positive.
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a queue holds at least 1 embedding, not {size}")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim)))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, embeddings: Tensor) -> None:
        """Put ``[N, P]`` in the place of the N oldest; of more than K, the last K stay."""
        K = len(self.rows)  # noqa: N806
        embeddings = embeddings[-K:].to(self.rows)
        places = (self.position + torch.arange(len(embeddings), device=self.rows.device)) % K
        self.rows.index_copy_(0, places, embeddings)
        self.position.add_(len(embeddings)).remainder_(K)


class MemoryBank(nn.Module):
    """A row of norm 1 for each image of the data set (Wu et al. 2018, arXiv 1805.01978).

    Args:
        images: rows.
        dim: P.

    Attributes:
        rows: float32 ``[images, P]``; random directions until they are first updated.
        seen: bool ``[images]``, which rows have been updated.

    Raises:
        ValueError: if ``images`` is not positive.
    """

    rows: Tensor
    seen: Tensor

    def __init__(self, images: int, dim: int) -> None:
        super().__init__()
        if images < 1:
            raise ValueError(f"a memory bank has a row for each of at least 1 image, not {images}")
        self.register_buffer("rows", F.normalize(torch.randn(images, dim)))
        self.register_buffer("seen", torch.zeros(images, dtype=torch.bool))

    @torch.no_grad()
    def update(self, indices: Tensor, embeddings: Tensor, momentum: float) -> None:
        """v_i ← normalise(m v_i + (1 − m) z_i) for int64 ``[N]`` and ``[N, P]``.

        The first embedding of an image replaces its random start whatever ``momentum`` is. Of an
        image that stands in the batch several times, the last embedding counts.
        """
        embeddings = embeddings.to(self.rows)[last_of_same(indices)]
        mixed = torch.lerp(self.rows[indices], embeddings, 1 - momentum)
        rows = torch.where(self.seen[indices, None], mixed, embeddings)
        self.rows.index_copy_(0, indices, F.normalize(rows))
        self.seen.index_fill_(0, indices, True)


def last_of_same(indices: Tensor) -> Tensor:
    """The last position that holds the same value: int64 ``[N]`` -> int64 ``[N]``.

    Writes to one row then all carry one value: which of several different ones stays is up to
    chance on a GPU, and may differ between processes.
    """
    positions = torch.arange(len(indices), device=indices.device)
    same = indices[:, None] == indices[None, :]  # [N, N]
    last: Tensor = torch.where(same, positions, -1).amax(1)
    return last
