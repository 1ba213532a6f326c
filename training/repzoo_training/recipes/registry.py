"""Look up recipes by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re

from repzoo_training.errors import RecipeError
from repzoo_training.recipes import builtin
from repzoo_training.recipes.extensions import installed, load_file
from repzoo_training.recipes.recipe import Recipe

__all__ = ["find_recipe", "list_recipes"]


def list_recipes() -> list[Recipe]:
    """Return all recipes, built-in and installed, sorted by name.

    Raises:
        RecipeError: If a recipe of the user has the name of another one.
    """
    found = _builtin()
    for recipe in installed():
        if recipe.name in found:
            raise RecipeError(f"there are two recipes called {recipe.name!r}: rename yours")
        found[recipe.name] = recipe
    return [found[name] for name in sorted(found)]


def find_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``, or the one in a file: ``FILE.py`` or ``FILE.py:NAME``.

    Raises:
        RecipeError: If the recipe does not exist; the message suggests similar names.
    """
    if match := re.fullmatch(r"(.+\.py)(?::(.+))?", name):
        return _in_file(match[1], match[2])
    known = _builtin()
    if name in known:  # without loading yours, which may derive from it
        return known[name]
    known = {recipe.name: recipe for recipe in list_recipes()}
    if name not in known:
        alike = difflib.get_close_matches(name, known, n=5)
        meant = f"did you mean {' or '.join(alike)}? " if alike else ""
        raise RecipeError(
            f"recipe {name!r} does not exist; {meant}`zoo train --list` shows all {len(known)}, "
            "and FILE.py names one of your own"
        )
    return known[name]


def _builtin() -> dict[str, Recipe]:
    modules = (
        importlib.import_module(f"{builtin.__name__}.{module.name}")
        for module in pkgutil.iter_modules(builtin.__path__)
        if not module.name.startswith("_")
    )
    return {recipe.name: recipe for module in modules for recipe in module.RECIPES}


def _in_file(path: str, name: str | None) -> Recipe:
    recipes = load_file(path)
    known = {recipe.name: recipe for recipe in recipes}
    if not name and len(recipes) == 1:
        return recipes[0]
    if name is not None and name in known:
        return known[name]
    names = ", ".join(f"{path}:{each}" for each in known) or "none: it has no RECIPES"
    raise RecipeError(f"{path} has {len(recipes)} recipes; name one of them: {names}")
