"""Fixtures for tests of training."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from repzoo_training.data import ImageDataset, load
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe

MNIST = Path(__file__).parents[1] / "data" / "mnist"
SMALL = ("network.widths=[64,32]", "images_per_step=8", "views_per_image=4", "precision=float32")


@pytest.fixture(scope="session", autouse=True)
def _fast_exports(zoo_processes_module: ModuleType) -> None:
    zoo_processes_module.export_faster()


@pytest.fixture(scope="session")
def mnist() -> ImageDataset:
    """2,000 digits."""
    return load(str(MNIST), "train", progress=False)


@pytest.fixture(scope="session")
def small() -> Recipe:
    """A recipe of 20 steps that take no time."""
    return override(find_recipe("simvae-mnist"), (*SMALL, "views=640"))


@pytest.fixture(scope="session")
def command() -> Callable[..., list[str]]:
    """``command(out, *options, data=MNIST)`` trains a recipe like `small` for 240 steps.

    The result are the words after ``zoo``.
    """

    def words(out: Path, *options: str, data: Path = MNIST) -> list[str]:
        settings = [word for setting in SMALL for word in ("--set", setting)]
        length = [] if {"--views", "--budget"} & {*options} else ["--views", str(240 * 8 * 4)]
        return [
            *("train", "simvae-mnist", "--data", str(data), "--out", str(out)),
            *("--threads", "1", *length, *settings, *options),
        ]

    return words


@pytest.fixture(scope="session")
def finish(
    zoo_process: Callable[..., tuple[int, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``finish(words, environment=None)`` runs ``zoo WORDS`` in a process of its own."""
    folder = tmp_path_factory.mktemp("finish")

    def run(words: list[object], *environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, *zoo_process(words, folder, *environment))

    return run
