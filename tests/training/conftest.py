"""Fixtures for tests of training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from repzoo_training.data import ImageDataset, load
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe

ZOO = Path(sys.executable).with_name("zoo")
MNIST = Path(__file__).parents[1] / "data" / "mnist"
SMALL = ("network.widths=[64,32]", "images_per_step=8", "views_per_image=4", "precision=float32")


@pytest.fixture(scope="session")
def mnist() -> ImageDataset:
    """2,000 digits."""
    return load(str(MNIST), "train", progress=False)


@pytest.fixture
def small() -> Recipe:
    """A recipe of 20 steps that take no time."""
    return override(find_recipe("simvae-mnist"), (*SMALL, "views=640"))


@pytest.fixture(scope="session")
def command() -> Callable[..., list[str]]:
    """``command(out, *options, data=MNIST)`` trains a recipe like `small` for 240 steps."""

    def words(out: Path, *options: str, data: Path = MNIST) -> list[str]:
        settings = [word for setting in SMALL for word in ("--set", setting)]
        length = [] if {"--views", "--budget"} & {*options} else ["--views", str(240 * 8 * 4)]
        return [
            *(str(ZOO), "train", "simvae-mnist", "--data", str(data), "--out", str(out)),
            *("--threads", "1", *length, *settings, *options),
        ]

    return words
