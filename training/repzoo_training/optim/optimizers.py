"""Optimizers by name, and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from repzoo_training.optim.lars import LARS
from repzoo_training.recipes.recipe import Recipe

__all__ = ["build_optimizer", "learning_rate"]


def build_optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """Build the recipe's optimizer for the trained parameters of ``module``.

    Weight decay and the adaptation of LARS apply to matrices and kernels only, because biases and
    the scales of normalisation layers do not need to be small.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, momentum = recipe.learning_rate, recipe.momentum
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, rate, momentum=momentum, nesterov=recipe.nesterov, fused=True
        )
    if recipe.optimizer == "lars":
        groups[1]["adapt"] = False
        return LARS(groups, rate, momentum=momentum)
    return torch.optim.AdamW(groups, rate, fused=True)


def learning_rate(recipe: Recipe, step: int, begin: int = 0) -> float:
    """Return the learning rate of a step: linear warm-up, then the recipe's schedule.

    Args:
        recipe: The recipe.
        step: The step, from 0 on.
        begin: The first step of the schedule, which ends with the run.
    """
    steps = recipe.steps - begin
    step -= begin
    warmup = max(1, round(recipe.warmup * steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (step - warmup) / max(1, steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
