"""The settings of recipes: each has a meaning, and typing errors are answered with the nearest."""

from __future__ import annotations

import json

import pytest
from repzoo_training.errors import RecipeError
from repzoo_training.objectives import METHODS
from repzoo_training.recipes.keys import keys
from repzoo_training.recipes.recipe import override
from repzoo_training.recipes.registry import find_recipe


@pytest.mark.parametrize("method", METHODS)
def test_every_key_has_a_meaning(method: str) -> None:
    recipe = find_recipe(f"{method}-mnist")
    found = keys(recipe, method)
    assert not [key.name for key in found if not key.meaning]
    assert {"views", "network.widths", "augmentation.scale", "seed"} <= {key.name for key in found}
    # Every line of --show can be given to --set.
    same = override(recipe, [key.setting for key in found])
    assert same.model_copy(update={"options": recipe.options}) == recipe


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rat=1", "learning_rate"),
        ("latent-dim=1", "latent_dim"),
        ("temperature=1", "options.temperature"),
        ("options.temprature=1", "options.temperature"),
        ("widths=[1]", "network.widths"),
        ("augmentation.scal=[1,1]", "augmentation.scale"),
        ("network.widhts=[1]", "network.widths"),
    ],
)
def test_the_nearest_key_is_named(typed: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=f"did you mean '{meant}'"):
        override(find_recipe("simclr-mnist"), [typed])


def test_settings_of_another_method() -> None:
    recipe = find_recipe("simclr-mnist")
    changed = override(recipe, ["method=vicreg", "options={}", "options.variance=5"])
    assert changed.options == {"variance": 5}
    with pytest.raises(RecipeError, match="unknown method 'vicregg'"):
        override(recipe, ["method=vicregg"])
    with pytest.raises(RecipeError, match="no section 'likelihood'"):
        override(recipe, ["likelihood.kind=gaussian"])
    with pytest.raises(RecipeError, match="'views' is not a setting"):
        override(recipe, ["views"])
    assert override(recipe, [f"views={json.dumps(7)}"]).views == 7
    with pytest.raises(RecipeError, match="a mlp has no options: they are for networks of your"):
        override(recipe, ["network.options.features=3"])
