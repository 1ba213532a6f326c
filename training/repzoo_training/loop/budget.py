"""Values measured once, when a run starts, and stored: precision, and views per budget."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from repzoo_training.loop.parallel import from_first
from repzoo_training.loop.step import Learner
from repzoo_training.recipes.recipe import Recipe

__all__ = ["Budget", "measure_budget", "measure_precision"]


class Budget(NamedTuple):
    """The number of views that fit in a time, and the estimated time of training on them."""

    views: int
    seconds: float


def measure_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return ``bfloat16`` if its matrix products are at least twice as fast, else ``float32``.

    Processors without bfloat16 instructions are up to 40 times slower with it.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, dtype=dtype, device=device)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            (a @ a)[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return "bfloat16" if 2 * seconds[torch.bfloat16] < seconds[torch.float32] else "float32"


def measure_budget(
    seconds: float, recipe: Recipe, images: Tensor, *, compiled: bool = False
) -> Budget:
    """Measure how many views ``recipe`` trains on in ``seconds``; at least one step's views.

    All processes measure together, and the clock of the first one counts.

    Args:
        seconds: The time budget.
        recipe: The recipe to train.
        images: The data set, uint8 ``[N, C, H, W]`` on the device to train on.
        compiled: See :class:`repzoo_training.loop.step.Learner`.
    """
    learner = Learner(recipe, images, compiled=compiled)
    per_step = _seconds_per_step(learner, min(5.0, 0.1 * seconds))
    # The rest of the time goes to pictures, reports and checkpoints.
    steps = max(1, int(0.95 * seconds / per_step))
    return Budget(steps * recipe.views_per_step, steps * per_step / 0.95)


def _seconds_per_step(learner: Learner, seconds: float) -> float:
    """Return the median time of the steps that fit in ``seconds``, and of three steps at least."""
    times: list[float] = []
    for step in range(2):  # the first steps compile, and allocate memory
        learner.step(step)["loss"].item()
    while from_first(lambda: len(times) < 3 or sum(times) < seconds):
        start = time.perf_counter()
        learner.step(2 + len(times))["loss"].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return from_first(lambda: sorted(times)[len(times) // 2])
