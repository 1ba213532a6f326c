"""Look up recipes by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from repzoo_training.errors import RecipeError
from repzoo_training.recipes import builtin
from repzoo_training.recipes.recipe import Recipe

__all__ = ["find_recipe", "list_recipes"]


def list_recipes() -> list[Recipe]:
    """Return all built-in recipes, sorted by name."""
    modules = (
        importlib.import_module(f"{builtin.__name__}.{module.name}")
        for module in pkgutil.iter_modules(builtin.__path__)
        if not module.name.startswith("_")
    )
    return sorted((recipe for m in modules for recipe in m.RECIPES), key=lambda r: str(r.name))


def find_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``.

    Raises:
        RecipeError: If the recipe does not exist; the message suggests similar names.
    """
    known = {recipe.name: recipe for recipe in list_recipes()}
    if name not in known:
        alike = difflib.get_close_matches(name, known, n=5)
        meant = f"did you mean {' or '.join(alike)}? " if alike else ""
        raise RecipeError(
            f"recipe {name!r} does not exist; {meant}`zoo train --list` shows all {len(known)}"
        )
    return known[name]
