"""Recipes, objectives, networks and views from your own files and packages.

A file or module that registers them (`repzoo_training.objectives.register`, and the same in
``networks`` and ``views.views``) and lists its recipes in ``RECIPES`` is found in three ways:

- by its path, where a command takes the name of a recipe: ``zoo train my_recipe.py``
- in the variable ``REPZOO_RECIPES``, a list of files separated by ``:`` (``;`` on Windows)
- as an entry point of an installed package, in the group ``repzoo.recipes``

A run names the files that were loaded when it was trained. Reading a run loads them again, but only
files that you have named in one of the first two ways before: a run that comes from elsewhere must
not run code.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError
from repzoo.cache.places import default_cache

from repzoo_training.errors import RecipeError, problems
from repzoo_training.recipes.recipe import Recipe

__all__ = ["GROUP", "VARIABLE", "installed", "load_again", "load_file", "loaded_files"]

GROUP = "repzoo.recipes"
VARIABLE = "REPZOO_RECIPES"

_log = logging.getLogger(__name__)
_files: dict[Path, Sequence[Recipe]] = {}


@cache
def installed() -> Sequence[Recipe]:
    """Return the recipes of installed packages and of the files in ``REPZOO_RECIPES``.

    A package that cannot be loaded is left out, with a warning.

    Raises:
        RecipeError: If a file cannot be loaded.
    """
    recipes: list[Recipe] = []
    for point in entry_points(group=GROUP):
        where = f"{point.dist.name if point.dist else 'a package'} ({point.value})"
        try:
            recipes += _recipes(point.load(), where)
        except Exception as error:  # the package may do anything
            _log.warning("recipes of %s cannot be loaded: %s", where, _reason(error))
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        recipes += load_file(path)
    return recipes


def load_file(path: str | Path) -> Sequence[Recipe]:
    """Run a Python file of the user and return its recipes; remember that the user named it.

    Raises:
        RecipeError: If the file does not exist, fails, or has recipes that are not valid.
    """
    place = Path(path).expanduser().resolve()
    if place in _files:
        return _files[place]
    if not place.is_file():
        raise RecipeError(f"{path} does not exist")
    name = f"repzoo_recipe_{sha256(os.fsencode(place)).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path} is not a Python file: expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RecipeError(f"{path} cannot be loaded: {_reason(error)}") from error
    _files[place] = _recipes(module, str(path))
    if str(place) not in _remembered():
        _memory().parent.mkdir(parents=True, exist_ok=True)
        with _memory().open("a", encoding="utf-8") as memory:
            memory.write(f"{place}\n")
    return _files[place]


def loaded_files() -> tuple[str, ...]:
    """Return the files that this process has loaded, as absolute paths."""
    return tuple(map(str, _files))


def load_again(files: Sequence[str]) -> list[str]:
    """Load the files of a run and what is installed; return the files that may not be loaded.

    Raises:
        RecipeError: If a file fails.
    """
    installed()
    remembered = {*_remembered(), *loaded_files()}
    missing = [file for file in files if file not in remembered or not Path(file).is_file()]
    for file in files:
        if file not in missing:
            load_file(file)
    return missing


def _memory() -> Path:
    return default_cache() / "recipe-files.txt"


def _remembered() -> Sequence[str]:
    try:
        return _memory().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _recipes(module: ModuleType, where: str) -> list[Recipe]:
    """Return the valid recipes of a module.

    Raises:
        RecipeError: If they are not valid.
    """
    recipes = getattr(module, "RECIPES", ())
    if not isinstance(recipes, list | tuple) or not all(isinstance(r, Recipe) for r in recipes):
        raise RecipeError(f"{where}: RECIPES must be a list of Recipe")
    try:
        return [Recipe.model_validate(recipe.model_dump()) for recipe in recipes]
    except ValidationError as error:
        raise RecipeError(f"{where}: {problems(error)}") from None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
