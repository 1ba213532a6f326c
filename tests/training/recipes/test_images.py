"""Recipes for own images fit together, at every size."""

from __future__ import annotations

import pytest
import torch
from repzoo_training import networks
from repzoo_training.objectives import find_method
from repzoo_training.recipes.builtin.images import RECIPES
from repzoo_training.recipes.recipe import Recipe


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_networks_fit_the_images(recipe: Recipe) -> None:
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    images, D = torch.zeros(2, *recipe.image_shape), recipe.latent_dim  # noqa: N806
    with torch.inference_mode():
        if find_method(recipe.method).generative:
            encoder, decoder = networks.build(recipe.network, recipe.image_shape, D)
            mean, log_variance = encoder(images)
            assert decoder(mean).shape == images.shape
            assert mean.shape == log_variance.shape == (2, D)
        else:
            found = networks.build_encoder(recipe.network, recipe.image_shape, D)(images)
            assert found.shape == (2, D)


def test_all_are_there() -> None:
    names = {recipe.name for recipe in RECIPES}
    for method in ("simvae", "simclr", "vicreg", "dino"):
        for size in (32, 64, 96, 128):
            name = f"{method}-images-{size}"
            assert {name, f"{name}-conv"} <= names
    assert len(names) == len(RECIPES) == 32
