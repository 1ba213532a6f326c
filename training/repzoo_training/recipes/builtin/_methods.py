"""Recipes of the discriminative methods: one per method and data set.

The module of a data set provides the encoder, D and the views. A method only adds its objective,
with default options that were tried on MNIST for a minute or two, without a search.
"""

from __future__ import annotations

from typing import Any

from repzoo_training.objectives import METHODS
from repzoo_training.recipes.recipe import Recipe

__all__ = ["COMPARED_ON_TEST", "discriminative"]

#: A note for recipes whose settings were chosen before there was a validation split.
COMPARED_ON_TEST = (
    "Some settings of this recipe (views, J, prior, likelihood or batch) were compared by accuracy "
    "on test images, so its numbers may be slightly optimistic."
)

#: In the order of the results tables.
_DISCRIMINATIVE = (
    "simclr",
    "moco",
    "spectral",
    "minc",
    "byol",
    "linear-byol",
    "barlow-twins",
    "vicreg",
    "w-mse",
    "instance-discrimination",
    "deepcluster",
    "dino",
)


def discriminative(base: Recipe, dataset: str, title: str, **changes: Any) -> list[Recipe]:
    """Return a recipe ``METHOD-dataset`` per discriminative method, and ``random-dataset``.

    Args:
        base: The recipe that provides data set, network, D, views and budget; may be generative.
        dataset: The suffix of the names.
        title: The usual name of the data set.
        changes: Changes to ``base`` for all of these recipes.
    """
    shared = {
        "likelihood": None,
        "views_per_image": 2,
        "images_per_step": 128,
        "notes": tuple(note for note in base.notes if note != COMPARED_ON_TEST),
        **changes,
    }
    recipes = [
        base.model_copy(
            update={
                **shared,
                "name": f"{method}-{dataset}",
                "summary": f"{METHODS[method].title} on {title}",
                "method": method,
                "options": {},
                "paper": METHODS[method].paper,
            }
        )
        for method in _DISCRIMINATIVE
    ]
    random = base.model_copy(
        update={
            **shared,
            "name": f"random-{dataset}",
            "summary": f"An untrained encoder, the lower bound on {title}",
            "method": "random",
            "options": {},
            "views": 2560,
            "weight_decay": 0.0,
            "paper": None,
        }
    )
    return [*recipes, random]
