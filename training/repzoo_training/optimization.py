"""Optimisers by name, and the schedule of the learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import nn

if TYPE_CHECKING:
    from repzoo_training.recipe import Recipe

__all__ = ["OptimizerName", "build_optimizer", "learning_rate"]

OptimizerName: TypeAlias = Literal["adamw", "sgd"]


def build_optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser of what in ``module`` is trained.

    Weight decay falls on matrices and kernels only: biases and the scales of normalisation layers
    have no reason to be small.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, recipe.learning_rate, fused=True)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine to zero: a function of the step alone."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
