"""Settings of each discriminative method, shared by the recipes of all data sets.

A data set's module gives the encoder, D and the views; what a method adds to them stands here. The
settings were tried on MNIST with D = 10 for a minute or two on one CPU core, not searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repzoo_training.objectives import METHODS
from repzoo_training.recipe import Recipe

__all__ = ["discriminative"]

#: Changes to a data set's base recipe, for each method.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "simclr": {},
    "moco": {},
    "spectral": {},
    "minc": {},
    "byol": {},
    "linear-byol": {},
    "barlow-twins": {},
    "vicreg": {},
    "w-mse": {},
    "instance-discrimination": {},
    "deepcluster": {},
    "dino": {},
}


def discriminative(base: Recipe, dataset: str, title: str, **changes: Any) -> list[Recipe]:
    """A recipe ``METHOD-dataset`` for each discriminative method, and ``random-dataset``.

    Args:
        base: data set, network, D, views and budget; of a generative method, too.
        dataset: what the names end in.
        title: the data set as people write it.
        changes: to ``base``, for all of them; a method's own settings win.
    """
    shared = {"likelihood": None, "views_per_image": 2, "images_per_step": 128, **changes}
    recipes = [
        base.model_copy(
            update={
                **shared,
                **settings,
                "name": f"{method}-{dataset}",
                "summary": f"{METHODS[method].title} on {title}",
                "method": method,
                "options": settings.get("options", {}),
                "paper": METHODS[method].paper,
            }
        )
        for method, settings in SETTINGS.items()
        if method in METHODS
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
