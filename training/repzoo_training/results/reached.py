"""What recipes have reached: k-NN on the test set after a stated budget, one seed.

The numbers are those of the tables in README.md, by the command that stands there; on CelebA they
are of gender. What is not here has not been trained; then the published numbers of its method say
what may be expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from repzoo_training.recipes.recipe import Recipe
from repzoo_training.results.published import SOURCES, published

__all__ = ["REACHED", "Reached", "expectation"]


class Reached(NamedTuple):
    """k-NN accuracy in per cent, by the distance of the method's family, and what it took."""

    knn: float
    budget: str


ONE_CORE = "2 minutes of one CPU core"

REACHED: Mapping[str, Reached] = {
    "simvae-mnist": Reached(94.9, ONE_CORE),
    "vae-mnist": Reached(95.9, ONE_CORE),
    "beta-vae-mnist": Reached(92.2, ONE_CORE),
    "cr-vae-mnist": Reached(95.4, ONE_CORE),
    "simclr-mnist": Reached(93.7, ONE_CORE),
    "moco-mnist": Reached(91.9, ONE_CORE),
    "spectral-mnist": Reached(93.6, ONE_CORE),
    "minc-mnist": Reached(94.7, ONE_CORE),
    "instance-discrimination-mnist": Reached(91.8, ONE_CORE),
    "byol-mnist": Reached(84.7, ONE_CORE),
    "linear-byol-mnist": Reached(82.4, ONE_CORE),
    "barlow-twins-mnist": Reached(93.7, ONE_CORE),
    "vicreg-mnist": Reached(93.9, ONE_CORE),
    "w-mse-mnist": Reached(94.0, ONE_CORE),
    "deepcluster-mnist": Reached(91.0, ONE_CORE),
    "dino-mnist": Reached(85.0, ONE_CORE),
    "random-mnist": Reached(43.3, ONE_CORE),
    "simvae-fashion-mnist": Reached(84.1, ONE_CORE),
    "vae-fashion-mnist": Reached(83.4, ONE_CORE),
    "beta-vae-fashion-mnist": Reached(79.3, ONE_CORE),
    "cr-vae-fashion-mnist": Reached(81.5, ONE_CORE),
    "simclr-fashion-mnist": Reached(80.7, ONE_CORE),
    "moco-fashion-mnist": Reached(79.2, ONE_CORE),
    "spectral-fashion-mnist": Reached(78.2, ONE_CORE),
    "minc-fashion-mnist": Reached(78.0, ONE_CORE),
    "instance-discrimination-fashion-mnist": Reached(74.7, ONE_CORE),
    "byol-fashion-mnist": Reached(79.2, ONE_CORE),
    "linear-byol-fashion-mnist": Reached(75.4, ONE_CORE),
    "barlow-twins-fashion-mnist": Reached(77.6, ONE_CORE),
    "vicreg-fashion-mnist": Reached(77.7, ONE_CORE),
    "w-mse-fashion-mnist": Reached(76.3, ONE_CORE),
    "deepcluster-fashion-mnist": Reached(78.6, ONE_CORE),
    "dino-fashion-mnist": Reached(77.8, ONE_CORE),
    "random-fashion-mnist": Reached(65.6, ONE_CORE),
    "simvae-cifar10-mlp": Reached(39.7, ONE_CORE),
    "vae-cifar10-mlp": Reached(43.8, ONE_CORE),
    "beta-vae-cifar10-mlp": Reached(38.2, ONE_CORE),
    "cr-vae-cifar10-mlp": Reached(41.6, ONE_CORE),
    "simclr-cifar10-mlp": Reached(44.3, ONE_CORE),
    "moco-cifar10-mlp": Reached(45.5, ONE_CORE),
    "spectral-cifar10-mlp": Reached(42.8, ONE_CORE),
    "minc-cifar10-mlp": Reached(43.9, ONE_CORE),
    "instance-discrimination-cifar10-mlp": Reached(28.4, ONE_CORE),
    "byol-cifar10-mlp": Reached(34.4, ONE_CORE),
    "linear-byol-cifar10-mlp": Reached(33.0, ONE_CORE),
    "barlow-twins-cifar10-mlp": Reached(41.1, ONE_CORE),
    "vicreg-cifar10-mlp": Reached(40.7, ONE_CORE),
    "w-mse-cifar10-mlp": Reached(40.7, ONE_CORE),
    "deepcluster-cifar10-mlp": Reached(31.2, ONE_CORE),
    "dino-cifar10-mlp": Reached(34.2, ONE_CORE),
    "random-cifar10-mlp": Reached(31.0, ONE_CORE),
    "simvae-cifar10-conv": Reached(42.2, "5 minutes of one CPU core"),
    "vae-cifar10-conv": Reached(40.8, "3 minutes of one CPU core"),
    "simclr-cifar10-conv": Reached(57.4, "6 M views, half an hour of one CPU core"),
    "simvae-celeba-conv": Reached(75.2, "3 M views, 38 minutes of one CPU core"),
    "vae-celeba-conv": Reached(77.0, "3 M views, 24 minutes of one CPU core"),
    "vicreg-celeba-conv": Reached(80.5, "1.5 M views, 20 minutes of one CPU core"),
}


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
