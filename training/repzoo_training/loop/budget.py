"""Measured once, when a run starts, and stored: precision, and the views that fit a time."""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch import nn

from repzoo_training.data import ImageDataset
from repzoo_training.loop.parallel import from_first
from repzoo_training.loop.step import build_objective, place, take_step
from repzoo_training.optim.optimizers import build_optimizer
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.views.views import Views

__all__ = ["measure_precision", "views_in"]


def measure_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """``bfloat16`` where its matrix products are at least twice as fast as float32's, else not.

    Processors without instructions for it are up to 40 times slower in it.
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


def views_in(
    seconds: float,
    recipe: Recipe,
    dataset: ImageDataset,
    device: torch.device,
    *,
    compiled: bool = False,
) -> int:
    """How many views ``recipe`` trains on in ``seconds`` here, at least one step's.

    All processes measure together, and the first one's clock counts.
    """
    objective = build_objective(recipe, len(dataset))
    model = place(recipe, objective, device, compiled=compiled)
    per_step = _seconds_per_step(model, recipe, dataset, device, min(5.0, 0.1 * seconds))
    # The rest is for pictures, reports and checkpoints.
    return max(1, int(0.95 * seconds / per_step)) * recipe.views_per_step


def _seconds_per_step(
    model: nn.Module, recipe: Recipe, dataset: ImageDataset, device: torch.device, seconds: float
) -> float:
    """The median over at least three steps of a throw-away copy, and ``seconds`` of them."""
    optimizer = build_optimizer(recipe, model)
    pixels = dataset.images[: max(1, min(len(dataset), 4096))]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
    make_views = Views(recipe.augmentation, recipe.image_shape[1:], device)
    times: list[float] = []
    for step in range(2):  # the first ones compile, and find their memory
        take_step(model, optimizer, images, make_views, recipe, step)["loss"].item()
    while from_first(lambda: len(times) < 3 or sum(times) < seconds):
        start = time.perf_counter()
        terms = take_step(model, optimizer, images, make_views, recipe, 2 + len(times))
        terms["loss"].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return from_first(lambda: sorted(times)[len(times) // 2])
