"""Recipes of the discriminative methods, one of each for every data set.

A data set's module gives the encoder, D and the views; a method adds nothing but its objective,
with its own defaults, which were tried on MNIST for a minute or two and not searched.
"""

from __future__ import annotations

from typing import Any

from repzoo_training.objectives import METHODS
from repzoo_training.recipes.recipe import Recipe

__all__ = ["discriminative"]

#: In the order of the README's table.
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
    """A recipe ``METHOD-dataset`` for each discriminative method, and ``random-dataset``.

    Args:
        base: data set, network, D, views and budget; of a generative method, too.
        dataset: what the names end in.
        title: the data set as people write it.
        changes: to ``base``, for all of them.
    """
    shared = {"likelihood": None, "views_per_image": 2, "images_per_step": 128, **changes}
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
