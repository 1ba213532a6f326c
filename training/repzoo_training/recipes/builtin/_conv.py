"""The recipes ``-conv``: a small pair of strided convolutions, for a CPU.

They see weaker views than those for a GPU: what a view changes costs time to become invariant to.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.views.views import ViewSpec

__all__ = ["convolutional"]

NOTE = (
    "A small model, trained on a CPU for minutes: the recipe of the same name without `-conv`, for "
    "a GPU, has a ResNet-18 and sees far more views."
)


def convolutional(
    recipe: Recipe,
    network: NetworkSpec,
    *,
    augmentation: ViewSpec,
    views_per_image: int,
    views: int,
) -> Recipe:
    """``recipe`` as ``NAME-conv``, at 128 views a step.

    Args:
        recipe: the one for a GPU.
        network: of kind ``conv``.
        augmentation: of methods that see more than one view of an image; others see it whole.
        views_per_image: J, of SimVAE.
        views: of the whole run.
    """
    several = recipe.views_per_image > 1
    count = {1: 1, 2: 2}.get(recipe.views_per_image, views_per_image)
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-conv",
            "summary": f"{recipe.summary}; small convolutions, for a CPU",
            "network": network,
            "augmentation": augmentation if several else recipe.augmentation,
            "views_per_image": count,
            "images_per_step": 128 // count,
            "views": views,
            "precision": "bfloat16",
            "notes": (NOTE, *recipe.notes),
        }
    )
