"""What recipes have reached: k-NN on the test set after a stated budget, one seed.

The numbers are those of the tables in README.md, by the command that stands there. What is not
here has not been trained; then the published numbers of its method say what may be expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from repzoo_training.comparison.published import SOURCES, published
from repzoo_training.recipe import Recipe

__all__ = ["REACHED", "Reached", "expectation"]


class Reached(NamedTuple):
    """k-NN accuracy in per cent, by the distance of the method's family, and what it took."""

    knn: float
    budget: str


ONE_CORE = "2 minutes of one CPU core"

REACHED: Mapping[str, Reached] = {}


def expectation(recipe: Recipe) -> str:
    """A line for ``zoo train --list``: reached here, or published elsewhere, or nothing known."""
    if (reached := REACHED.get(recipe.name)) is not None:
        return f"reached k-NN {reached.knn:.1f} % in {reached.budget}"
    dataset = recipe.name.removeprefix(f"{recipe.method}-")
    numbers = [
        f"{number.value:g} {number.task} ({SOURCES[number.source].title})"
        for number in published(dataset, recipe.method, recipe.network.kind)
    ]
    return "not trained yet" + (f"; published: {', '.join(numbers)}" if numbers else "")
