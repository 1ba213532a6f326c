"""Stateless randomness: every draw of a run is a function of (seed, purpose, counter).

A run resumed at step t draws the same numbers as an uninterrupted run, because nothing depends on
earlier draws. A checkpoint therefore stores all its randomness as two numbers, seed and step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Purpose", "generator", "image_indices"]

#: Independent random streams of one seed.
Purpose = Literal["initialisation", "order", "step", "figures", "measurement", "uncertainty"]
_STREAM = {
    "initialisation": 0,
    "order": 1,
    "step": 2,
    "figures": 3,
    "measurement": 4,
    "uncertainty": 5,
}


def generator(
    seed: int,
    purpose: Purpose,
    counter: int = 0,
    device: torch.device | str = "cpu",
    rank: int = 0,
) -> torch.Generator:
    """Return a generator on ``device``, seeded from seed, purpose, counter and process rank."""
    # A single process draws the same numbers as the first of several processes.
    entropy = [seed, _STREAM[purpose], counter, *([rank] if rank else [])]
    mixed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(mixed[0] >> np.uint64(1)))


def image_indices(seed: int, images: int, step: int, batch: int) -> Tensor:
    """Return the images of step ``step``, int64 ``[batch]``.

    The data order is an endless sequence of permutations of all ``images``, one per epoch. Each
    step takes the next ``batch`` indices, so that every image is seen equally often for any sizes.
    """
    position = step * batch + torch.arange(batch)  # [batch]
    epoch = position // images
    indices = torch.empty(batch, dtype=torch.int64)
    for number in epoch.unique().tolist():
        order = _order(seed, images, number)
        chosen = epoch == number
        indices[chosen] = order[position[chosen] % images]
    return indices


@lru_cache(maxsize=2)  # a permutation takes longer than one step of a small network on a GPU
def _order(seed: int, images: int, epoch: int) -> Tensor:
    return torch.randperm(images, generator=generator(seed, "order", epoch))
