"""The output of ``zoo train --list``."""

from __future__ import annotations

import shutil
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from repzoo.report import format_table

from repzoo_training.recipes.recipe import Recipe
from repzoo_training.results.reached import expectation

__all__ = ["chosen", "detailed", "grouped"]

#: Networks that train in minutes or hours on a CPU.
_FOR_CPU = ("mlp", "conv")


def chosen(
    recipes: Iterable[Recipe], data: str | None, method: str | None, device: str | None
) -> list[Recipe]:
    """Return the recipes for a data set (or a folder), of a method, and for a device.

    With the device ``cuda``, all recipes are suitable.
    """
    if data is not None and Path(data).expanduser().is_dir():
        data = "images"
    return [
        recipe
        for recipe in recipes
        if (data is None or _suffix(recipe).startswith(data))
        and method in (None, recipe.method)
        and (device != "cpu" or _device(recipe) == "cpu")
    ]


def detailed(recipes: Sequence[Recipe]) -> str:
    """Return a line per recipe: its network, its size and what to expect."""
    rows = [
        (
            recipe.name,
            recipe.network.kind,
            "x".join(map(str, recipe.input)),
            str(recipe.latent_dim),
            _device(recipe),
            expectation(recipe),
        )
        for recipe in recipes
    ]
    return format_table(rows, ("RECIPE", "NETWORK", "INPUT", "DIM", "FOR", "EXPECT"))


def grouped(recipes: Sequence[Recipe]) -> str:
    """Return the recipes by data set, short enough for a screen."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for recipe in recipes:
        suffix = _suffix(recipe)
        name = recipe.name if suffix == recipe.name else f"METHOD-{suffix}"
        groups[name, _device(recipe)].append(recipe.method)
    width = max(len(name) for name, _ in groups) + 2
    space = max(40, shutil.get_terminal_size().columns - width - 5)
    lines = [f"{'RECIPE'.ljust(width)}FOR  METHODS"]
    for (name, device), methods in groups.items():
        first, *more = textwrap.wrap("  ".join(methods), space, break_on_hyphens=False)
        lines.append(f"{name.ljust(width)}{device}  {first}")
        lines += [" " * (width + 5) + line for line in more]
    lines.append("")
    lines.append("More about some: --list with --data NAME|FOLDER, --method NAME or --device cpu")
    return "\n".join(lines)


def _suffix(recipe: Recipe) -> str:
    """Return the part of the name after the method, such as ``cifar10-conv``."""
    return recipe.name.removeprefix(f"{recipe.method}-")


def _device(recipe: Recipe) -> str:
    return "cpu" if recipe.network.kind in _FOR_CPU else "gpu"
