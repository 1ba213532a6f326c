"""The ``-conv`` recipes: a small pair of strided convolutions, for a CPU.

Their views are milder than those for a GPU, because the encoder needs training time to become
invariant to each kind of change.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.views.views import ViewSpec

__all__ = ["convolutional"]

NOTE = (
    "This is a small model, trained on a CPU for minutes. The recipe of the same name without "
    "`-conv`, for a GPU, uses a ResNet-18 and sees far more views."
)


def convolutional(
    recipe: Recipe,
    network: NetworkSpec,
    *,
    augmentation: ViewSpec,
    views_per_image: int,
    views: int,
) -> Recipe:
    """Return ``recipe`` as ``NAME-conv``, with 128 views per step.

    Args:
        recipe: The recipe for a GPU.
        network: A network of kind ``conv``.
        augmentation: The views for methods with several views per image; others see whole images.
        views_per_image: J of SimVAE.
        views: The number of views of the whole run.
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
            "notes": (NOTE, *recipe.notes),
        }
    )
