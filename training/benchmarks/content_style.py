"""Compare what methods keep of content and of style, at equal views, network and D.

    python training/benchmarks/content_style.py celeba-conv --data celeba10k --views 400000 \\
        --set network.widths=[32,64,128,256] --csv docs/results/content-style.csv --figures runs/

Figures 5 and 6 of arXiv 2402.01399. Every method gets network, D, learning rate and batch of the
SimVAE recipe of the family, and methods with several views of an image get its views. Generative
methods get its likelihood. All are trained on all training images and measured on the test images;
nothing is chosen. Finished runs are skipped, and interrupted ones resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from repzoo_training.comparison import Board, Images, boards, measure_runs
from repzoo_training.comparison.figures import attributes_figure, content_style_figure
from repzoo_training.data import load
from repzoo_training.evaluation.report import Group
from repzoo_training.objectives import METHODS
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe
from trials import Trials, run

#: The methods of the paper's Figure 5.
OF_PAPER = ("random", "simclr", "moco", "vicreg", "vae", "beta-vae", "cr-vae", "simvae")

GROUPS: tuple[Group, ...] = ("knn", "linear", "mlp", "style", "invariance")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", help="the last part of the recipes' names, such as celeba-conv")
    parser.add_argument("--data", required=True)
    parser.add_argument("--method", action="append", choices=METHODS, help="default: the paper's")
    parser.add_argument("--views", type=int, default=400_000, help="per run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--set", dest="fixed", action="append", default=[], metavar="KEY=VALUE", help="for all runs"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/content-style"))
    parser.add_argument("--csv", type=Path, help="add the rows to this file")
    parser.add_argument("--figures", type=Path, help="draw the figures in this folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shared = override(find_recipe(f"simvae-{arguments.family}"), arguments.fixed)
    images, test = (load(arguments.data, split, size=shared.input) for split in ("train", "test"))
    trials = Trials(arguments.csv, ("dataset", "split", "method", "J", "D", "views"))
    folders = []
    for method in arguments.method or OF_PAPER:
        recipe = comparable(find_recipe(f"{method}-{arguments.family}"), shared, arguments.views)
        numbers = []
        for seed in range(arguments.seeds):
            folder = arguments.out / f"{recipe.name}-{arguments.views}-{seed}"
            numbers.append(run(override(recipe, [f"seed={seed}"]), folder, images, test, GROUPS))
            folders.append(folder)
        told = (METHODS[method].title, recipe.views_per_image, recipe.latent_dim, recipe.views)
        trials.add((images.name, "test", *told), numbers)
    if arguments.figures is not None:
        draw(folders, arguments.data, arguments.figures)


def comparable(recipe: Recipe, shared: Recipe, views: int) -> Recipe:
    """Return ``recipe`` with what ``shared`` and it have in common, for ``views`` views."""
    several = recipe.views_per_image > 1
    count = shared.views_per_image if recipe.method == shared.method else recipe.views_per_image
    return recipe.model_copy(
        update={
            "network": shared.network,
            "latent_dim": shared.latent_dim,
            "learning_rate": shared.learning_rate,
            "weight_decay": shared.weight_decay,
            "augmentation": shared.augmentation if several else recipe.augmentation,
            "likelihood": None if recipe.likelihood is None else shared.likelihood,
            "views_per_image": count,
            "images_per_step": shared.views_per_step // count,
            "views": recipe.views if recipe.method == "random" else views,
        }
    )


def draw(folders: Sequence[Path], data: str, where: Path) -> None:
    """Draw content against style, and the accuracies by attribute if there are attributes."""
    board: Board
    (board,) = boards(measure_runs(folders, Images(data, progress=False), GROUPS, progress=False))
    where.mkdir(parents=True, exist_ok=True)
    name = board.dataset
    for kind, figure in (
        ("content-style", content_style_figure(board)),
        ("attributes", attributes_figure(board)),
    ):
        if figure is not None:
            (where / f"{kind}-{name}.png").write_bytes(figure)


if __name__ == "__main__":
    main()
