"""Memories of what other steps embedded: a queue of the latest, a bank with a row an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MemoryBank", "Queue"]


class Queue(nn.Module):
    """The last ``size`` embeddings, first in, first out (MoCo, He et al. 2020, arXiv 1911.05722).

    It starts with random directions, which are easy negatives.

    Args:
        size: K.
        dim: P.

    Attributes:
        rows: float32 ``[K, P]``, of norm 1.
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
        """Put ``[N, P]`` in the place of the N oldest; under data parallelism, of all processes."""
        K = len(self.rows)  # noqa: N806
        embeddings = embeddings[-K:]
        places = (self.position + torch.arange(len(embeddings), device=embeddings.device)) % K
        # Not in place: the loss of this step may still need the old rows for its gradient.
        self.rows = self.rows.index_copy(0, places, embeddings.to(self.rows))
        self.position = (self.position + len(embeddings)) % K


class MemoryBank(nn.Module):
    """A row of norm 1 for each image of the data set (Wu et al. 2018, arXiv 1805.01978).

    Args:
        images: rows.
        dim: P.

    Attributes:
        rows: float32 ``[images, P]``.
    """

    rows: Tensor

    def __init__(self, images: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(images, dim)))

    @torch.no_grad()
    def update(self, indices: Tensor, embeddings: Tensor, momentum: float) -> None:
        """v_i ← normalise(m v_i + (1 − m) z_i) for int64 ``[N]`` and ``[N, P]``.

        An image that stands in the batch twice gets one of its two updates, the same on every
        process if all are given the whole batch.
        """
        mixed = torch.lerp(self.rows[indices], embeddings.to(self.rows), 1 - momentum)
        # Not in place: the loss of this step may still need the old rows for its gradient.
        self.rows = self.rows.index_copy(0, indices, F.normalize(mixed))
