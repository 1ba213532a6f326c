"""Tune the likelihood of each generative method, then compare the methods at equal views.

    python training/benchmarks/likelihood_weight.py mnist --data mnist \\
        --csv docs/results/likelihood-weight.csv

The weight of a Bernoulli, or log σ_x² of a Gaussian, balances the reconstruction against the prior.
Comparing methods at different weights compares weights. So each method gets its own:

1. Each method is trained with each weight on nine tenths of the training images, once. The weight
   with the best mean of Euclidean k-NN and MLP probe, over all tasks, on the other tenth is chosen.
2. Each method is trained with its weight on all training images, with several seeds, and measured
   on the test images.

All runs see as many views, 320 per step. Finished runs are skipped, and interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from repzoo_training.data import load
from repzoo_training.evaluation.splits import held_out_tenth
from repzoo_training.objectives import METHODS
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe
from trials import Trials, run

GENERATIVE = ("simvae", "vae", "beta-vae", "cr-vae")

#: The settings to choose from, by kind of likelihood.
CHOICES = {
    "bernoulli": ("weight", (1.0, 10.0, 99.5)),
    "gaussian": ("log_variance", (-4.6, -2.3, 0.0)),
}

#: What the settings are chosen by, of every task.
CHOSEN_BY = ("k-NN euclidean, %", "MLP, %")

VIEWS_PER_STEP = 320

COLUMNS = ("dataset", "split", "method", "likelihood", "views")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", help="the last part of the recipes' names, such as mnist")
    parser.add_argument("--data", required=True)
    parser.add_argument("--method", action="append", choices=GENERATIVE, help="default: all")
    parser.add_argument("--views", type=int, default=500_000, help="per run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set", dest="fixed", action="append", default=[], metavar="KEY=VALUE", help="for all runs"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/likelihood-weight"))
    parser.add_argument("--csv", type=Path, help="add the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods = arguments.method or GENERATIVE
    recipes = {
        method: comparable(
            override(find_recipe(f"{method}-{arguments.family}"), arguments.fixed), arguments.views
        )
        for method in methods
    }
    size = recipes[methods[0]].input
    images = load(arguments.data, size=size)
    test = load(arguments.data, "test", size=size)
    trials = Trials(arguments.csv, COLUMNS)

    def add(split: str, method: str, setting: str, seeds: Sequence[Mapping[str, float]]) -> None:
        likelihood = setting.removeprefix("likelihood.")
        trials.add((images.name, split, METHODS[method].title, likelihood, arguments.views), seeds)

    kept, held_out = held_out_tenth(images)
    chosen = {}
    for method, recipe in recipes.items():
        scores = {}
        for setting in settings(recipe):
            folder = arguments.out / f"{recipe.name}-{setting}"
            numbers = run(override(recipe, [setting]), folder, kept, held_out)
            add("validation", method, setting, [numbers])
            scores[setting] = sum(
                value for label, value in numbers.items() if label.endswith(CHOSEN_BY)
            )
        chosen[method] = max(scores, key=scores.__getitem__)

    for method, recipe in recipes.items():
        numbers_of_seeds = [
            run(
                override(recipe, [chosen[method], f"seed={seed}"]),
                arguments.out / f"{recipe.name}-seed-{seed}",
                images,
                test,
            )
            for seed in range(arguments.seeds)
        ]
        add("test", method, chosen[method], numbers_of_seeds)


def comparable(recipe: Recipe, views: int) -> Recipe:
    """Return ``recipe`` for ``views`` views, in steps of the same size for every method."""
    return recipe.model_copy(
        update={"views": views, "images_per_step": VIEWS_PER_STEP // recipe.views_per_image}
    )


def settings(recipe: Recipe) -> Iterator[str]:
    """Yield the likelihoods to try, as settings of the recipe."""
    assert recipe.likelihood is not None
    name, values = CHOICES[recipe.likelihood.kind]
    yield from (f"likelihood.{name}={value:g}" for value in values)


if __name__ == "__main__":
    main()
