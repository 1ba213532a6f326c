"""Train a recipe with each combination of some settings, and compare the accuracies.

    python training/benchmarks/sweep.py minc-mnist --data mnist --views 200000 \\
        --vary options.triangle=false,true --vary options.target_momentum=0,0.95 \\
        --csv docs/results/minc.csv

Each combination is trained on nine tenths of the training images, and measured on the other tenth,
so that nothing is chosen on test images. All runs see as many views. Finished runs are skipped, and
interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import torch
from repzoo_training.data import load
from repzoo_training.evaluation.splits import held_out_tenth
from repzoo_training.recipes.recipe import override
from repzoo_training.recipes.registry import find_recipe
from trials import Trials, run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--data", required=True)
    parser.add_argument("--views", type=int, default=500_000, help="per run")
    parser.add_argument(
        "--views-per-step", type=int, metavar="N", help="N = images_per_step * views_per_image"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--set", dest="fixed", action="append", default=[], metavar="KEY=VALUE", help="for all runs"
    )
    parser.add_argument(
        "--vary", type=values, action="append", default=[], metavar="KEY=VALUE,VALUE..."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--csv", type=Path, help="add the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = override(find_recipe(arguments.recipe), [*arguments.fixed, f"views={arguments.views}"])
    images = load(arguments.data, size=recipe.input)
    kept, held_out = held_out_tenth(images)
    trials = Trials(arguments.csv, ("dataset", "split", "recipe", "settings", "views"))
    for settings in product(*arguments.vary):
        changed = override(recipe, settings)
        if arguments.views_per_step:
            images_per_step = arguments.views_per_step // changed.views_per_image
            changed = changed.model_copy(update={"images_per_step": images_per_step})
        name = "-".join([recipe.name, *arguments.fixed, *settings]).replace("/", "-")
        seeds = [
            run(
                override(changed, [f"seed={seed}"]),
                arguments.out / f"{name}-views={arguments.views}-seed={seed}",
                kept,
                held_out,
            )
            for seed in range(arguments.seeds)
        ]
        told = ", ".join([*arguments.fixed, *settings])
        trials.add((images.name, "validation", recipe.name, told, arguments.views), seeds)


def values(text: str) -> list[str]:
    """Return ``KEY=VALUE`` for each of the values of ``KEY=VALUE,VALUE...``."""
    key, _, listed = text.partition("=")
    if not listed:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE,VALUE..., got {text}")
    return [f"{key}={value}" for value in listed.split(",")]


if __name__ == "__main__":
    main()
