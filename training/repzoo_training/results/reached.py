"""Test accuracies that the recipes reached within a stated budget, one seed each.

CelebA's numbers are about gender. A recipe without a row has no result here; published numbers of
its method may say what to expect.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from repzoo_training.recipes.recipe import Recipe
from repzoo_training.results.published import SOURCES, published

__all__ = ["expectation", "rows"]

_DATA = Path(__file__).with_name("data") / "reached.csv"


@cache
def rows() -> Sequence[Mapping[str, str]]:
    """Return the rows of `reached.csv`, one per recipe and measure.

    k-NN uses the distance that suits the method: ``knn_cosine`` or ``knn_euclidean``.
    """
    with _DATA.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expectation(recipe: Recipe) -> str:
    """Return a line for ``zoo train --list``: the k-NN reached here, or published numbers.

    Recipes for a user's own images have neither.
    """
    for row in rows():
        if row["recipe"] == recipe.name and row["measure"].startswith("knn"):
            views = f"{float(row['views']) / 1e6:g} M views, " if row["views"] else ""
            return f"reached k-NN {row['value']} % in {views}{row['budget']}"
    dataset = recipe.name.removeprefix(f"{recipe.method}-")
    if dataset.startswith("images-"):
        return "made for your own images"
    numbers = [
        f"{number.value:g} {number.task} ({SOURCES[number.source].title})"
        for number in published(dataset, recipe.method, recipe.network.kind)
    ]
    return "no result recorded" + (f"; published: {', '.join(numbers)}" if numbers else "")
