"""Randomness that needs no state: every draw of a run is a function of (seed, purpose, counter).

A run resumed at step t draws what an undisturbed run draws there, because nothing depends on what
was drawn before. A checkpoint therefore holds all its randomness in two numbers, seed and step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Purpose", "generator", "image_indices"]

#: Independent streams of one seed.
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
    """A generator on ``device``, seeded from the seed, purpose, counter and process ``rank``."""
    # A process by itself draws what the first of several does.
    entropy = [seed, _STREAM[purpose], counter, *([rank] if rank else [])]
    mixed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(mixed[0] >> np.uint64(1)))


def image_indices(seed: int, images: int, step: int, batch: int) -> Tensor:
    """Which images step ``step`` takes, int64 ``[batch]``.

    The data order is an endless row of permutations of all ``images``, one an epoch; a step takes
    the next ``batch`` of it, so that every image is seen equally often whatever the sizes are.
    """
    position = step * batch + torch.arange(batch)  # [batch]
    epoch = position // images
    indices = torch.empty(batch, dtype=torch.int64)
    for number in epoch.unique().tolist():
        order = _order(seed, images, number)
        chosen = epoch == number
        indices[chosen] = order[position[chosen] % images]
    return indices


@lru_cache(maxsize=2)  # a permutation takes longer than a step of a small network on a GPU
def _order(seed: int, images: int, epoch: int) -> Tensor:
    return torch.randperm(images, generator=generator(seed, "order", epoch))
