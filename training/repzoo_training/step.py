"""One step of training: its weights at the start, its batch, its loss, its update."""

from __future__ import annotations

import torch
from torch import Tensor

from repzoo_training import networks, objectives
from repzoo_training.errors import RecipeError
from repzoo_training.objectives import Batch, Objective, Parts
from repzoo_training.randomness import generator, image_indices
from repzoo_training.recipe import Recipe
from repzoo_training.views import Views

__all__ = ["build_objective", "take_step"]


def build_objective(recipe: Recipe, images: int) -> Objective:
    """The recipe's objective with its networks, initialised from the recipe's seed.

    Args:
        recipe: what to build.
        images: size of the data set, which memories with a row an image have.

    Raises:
        RecipeError: if the recipe does not hold together.
    """
    shape, D = recipe.image_shape, recipe.latent_dim  # noqa: N806
    # Modules initialise from the global generator; forking keeps the caller's as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(recipe.seed, "initialisation").initial_seed())
        try:
            if objectives.find_method(recipe.method).generative:
                encoder, decoder = networks.build(recipe.network, shape, D)
                likelihood = None if recipe.likelihood is None else recipe.likelihood.build()
                parts = Parts(encoder, D, images, decoder, likelihood)
            else:
                parts = Parts(networks.build_encoder(recipe.network, shape, D), D, images)
            return objectives.build(recipe.method, recipe.options, parts)
        except ValueError as error:
            raise RecipeError(f"recipe {recipe.name}: {error}") from None


def take_step(
    objective: Objective,
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
    batch = Batch(
        views=make_views(images[chosen], recipe.views_per_image, draws),  # [B, J, C, H, W]
        indices=chosen,
        generator=draws,
        epoch=step * recipe.images_per_step // len(images),
        progress=step / recipe.steps,
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        terms = objective(batch)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    optimizer.step()
    objective.after_step((step + 1) / recipe.steps)
    return {name: term.detach() for name, term in terms.items()}
