"""One step of training: its weights at the start, its views, its loss, its learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from repzoo_training import networks, objectives
from repzoo_training.errors import RecipeError
from repzoo_training.objectives import Objective
from repzoo_training.randomness import generator, image_indices
from repzoo_training.recipe import Recipe
from repzoo_training.views import Views

__all__ = ["build_objective", "learning_rate", "take_step"]


def build_objective(recipe: Recipe) -> Objective:
    """The recipe's objective with its networks, initialised from the recipe's seed.

    Raises:
        RecipeError: if the recipe does not hold together.
    """
    # Modules initialise from the global generator; forking keeps the caller's as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(recipe.seed, "initialisation").initial_seed())
        try:
            encoder, decoder = networks.build(recipe.network, recipe.image_shape, recipe.latent_dim)
            return objectives.build(
                recipe.method, recipe.options, encoder, decoder, recipe.likelihood.build()
            )
        except ValueError as error:
            raise RecipeError(f"recipe {recipe.name}: {error}") from None


def take_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    make_views: Views,
    recipe: Recipe,
    step: int,
) -> dict[str, Tensor]:
    """Step number ``step``: views, loss, gradients, update. Returns the loss and its terms."""
    device = images.device
    chosen = image_indices(recipe.seed, len(images), step, recipe.images_per_step).to(device)
    draws = generator(recipe.seed, "step", step, device)
    views = make_views(images[chosen], recipe.views_per_image, draws)  # [B, J, C, H, W]
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        terms: dict[str, Tensor] = objective(views, draws)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    optimizer.step()
    return {name: term.detach() for name, term in terms.items()}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine to zero: a function of the step alone."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
