"""The ``-conv`` recipes: a small pair of strided convolutions, for a CPU.

Their views are milder than those for a GPU, because the encoder needs training time to become
invariant to each kind of change.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.recipes.builtin._methods import COMPARED_ON_TEST
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.views.views import ViewSpec

__all__ = ["NOTE", "convolutional", "for_hours"]

NOTE = (
    "This is a small model, trained on a CPU. The recipe of the same name without "
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
        augmentation: The views for methods with several views per image; others keep their own.
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
            "notes": (NOTE, COMPARED_ON_TEST, *recipe.notes),
        }
    )


def for_hours(simclr: Recipe, *, patch: int, augmentation: ViewSpec, views: int) -> Recipe:
    """Return a ``-conv`` recipe of SimCLR for hours of one core.

    SimCLR gains most from them. It has twice the width, D = 256 and stronger views, chosen on a
    tenth of the training images.

    Args:
        simclr: The recipe for minutes.
        patch: The side of a patch, so that 16×16 patches tile the image.
        augmentation: Its views.
        views: The number of views of the whole run.
    """
    return simclr.model_copy(
        update={
            "network": NetworkSpec(kind="conv", widths=(64, 128, 256, 512), patch=patch),
            "latent_dim": 256,
            "augmentation": augmentation,
            "images_per_step": 256,
            "options": {"temperature": 0.2, "projection_hidden": 512, "projection_dim": 128},
            "learning_rate": 2e-3,
            "weight_decay": 1e-4,
            "views": views,
        }
    )
