"""Tune the likelihood of each generative method, then compare the methods at equal views.

    python training/benchmarks/likelihood_weight.py mnist --data mnist \\
        --csv docs/results/likelihood-weight.csv

The weight of a Bernoulli, or log σ_x² of a Gaussian, balances the reconstruction against the prior.
Comparing methods at different weights compares weights. So each method gets its own:

1. Each method is trained with each weight on nine tenths of the training images, once. The weight
   with the best mean of Euclidean k-NN and MLP probe on the other tenth is chosen.
2. Each method is trained with its weight on all training images, with several seeds, and measured
   on the test images.

All runs see as many views, 320 per step. Finished runs are skipped, and interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch
from repzoo_training.data import ImageDataset, load
from repzoo_training.evaluation.runs import evaluate_run
from repzoo_training.evaluation.splits import held_out_tenth
from repzoo_training.loop.trainer import train
from repzoo_training.objectives import METHODS
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe
from tables import add_rows

GENERATIVE = ("simvae", "vae", "beta-vae", "cr-vae")

#: The settings to choose from, by kind of likelihood.
CHOICES = {
    "bernoulli": ("weight", (1.0, 10.0, 99.5)),
    "gaussian": ("log_variance", (-4.6, -2.3, 0.0)),
}

VIEWS_PER_STEP = 320

MEASURES = {"knn_euclidean": "k-NN euclidean, %", "linear": "linear, %", "mlp": "MLP, %"}

FIELDS = (
    *("dataset", "split", "method", "likelihood", "views", "seeds"),
    *("measure", "value", "standard_error"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", help="the last part of the recipes' names, such as mnist")
    parser.add_argument("--data", required=True)
    parser.add_argument("--method", action="append", choices=GENERATIVE, help="default: all")
    parser.add_argument("--views", type=int, default=500_000, help="per run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/likelihood-weight"))
    parser.add_argument("--csv", type=Path, help="add the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods = arguments.method or GENERATIVE
    recipes = {
        method: comparable(find_recipe(f"{method}-{arguments.family}"), arguments.views)
        for method in methods
    }
    size = recipes[methods[0]].input
    images = load(arguments.data, size=size)
    test = load(arguments.data, "test", size=size)
    rows = Rows(arguments.csv, images.name, arguments.views)

    kept, held_out = held_out_tenth(images)
    chosen = {}
    for method, recipe in recipes.items():
        scores = {}
        for setting in settings(recipe):
            folder = arguments.out / f"{recipe.name}-{setting}"
            numbers = run(override(recipe, [setting]), folder, kept, held_out)
            rows.add("validation", method, setting, [numbers])
            scores[setting] = numbers["knn_euclidean"] + numbers["mlp"]
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
        rows.add("test", method, chosen[method], numbers_of_seeds)


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


def run(
    recipe: Recipe, folder: Path, images: ImageDataset, queries: ImageDataset
) -> Mapping[str, float]:
    """Train on ``images``, probe with them, and return accuracies of ``queries`` in per cent."""
    train(recipe, images, folder, progress=False)
    report = evaluate_run(folder, (images, queries), ("knn", "linear", "mlp"), progress=False)
    measures = {name: report.measure(name) for name in MEASURES}
    return {name: 100 * measure.value for name, measure in measures.items() if measure}


class Rows:
    """Prints results, and adds them to a CSV file."""

    def __init__(self, path: Path | None, dataset: str, views: int) -> None:
        self.path = path
        self.dataset = dataset
        self.views = views

    def add(
        self, split: str, method: str, setting: str, seeds: Sequence[Mapping[str, float]]
    ) -> None:
        """Add the mean over seeds, with its standard error if there are several."""
        title, likelihood = METHODS[method].title, setting.removeprefix("likelihood.")
        lines = []
        for name, measure in MEASURES.items():
            values = [numbers[name] for numbers in seeds]
            error = f"{stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
            lines.append(
                (
                    *(self.dataset, split, title, likelihood, self.views, len(seeds)),
                    *(measure, f"{fmean(values):.1f}", error),
                )
            )
            print(*lines[-1], sep="\t", flush=True)
        if self.path is not None:
            add_rows(self.path, FIELDS, lines)


if __name__ == "__main__":
    main()
