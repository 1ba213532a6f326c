"""The views with which a package is calibrated."""

from __future__ import annotations

from repzoo.packages.config import ModelConfig

from repzoo_training.recipes.registry import find_recipe
from repzoo_training.views.views import ViewSpec

__all__ = ["IMPORTED", "views_of"]

#: Views for imported models, whose training is not known: crops, flips and colours of photographs.
IMPORTED = ViewSpec(
    scale=(0.5, 1.0),
    ratio=(3 / 4, 4 / 3),
    horizontal_flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    greyscale=0.1,
)


def views_of(config: ModelConfig, recipe: str | None = None) -> ViewSpec:
    """Return the views of a recipe, by default of the package's own, or `IMPORTED`.

    Raises:
        RecipeError: If there is no such recipe.
    """
    if recipe is None and config.training is None:
        if config.input.channels == 1:
            return IMPORTED.model_copy(update={"jitter": None, "greyscale": 0.0})
        return IMPORTED
    return find_recipe(recipe or config.facts.recipe).augmentation
