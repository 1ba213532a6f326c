"""The keys of a recipe, for ``zoo train --set KEY=VALUE`` and ``zoo train RECIPE --show``."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from repzoo_training.objectives import find_method

__all__ = ["Key", "keys", "require_key"]

#: Options that several methods share and do not describe themselves.
_OPTIONS = {
    "bottleneck_dim": "The width of the layer before the classes.",
    "moment_momentum": "The momentum of the moving average of Σ.",
    "projection_dim": "P, the dimensions of the projection that the loss compares.",
    "projection_hidden": "The width of the hidden layers of the projection head.",
    "projection_norm": "Whether the projection head uses batch normalisation.",
    "queue_size": "The number of keys in the queue.",
}


class Key(NamedTuple):
    """One setting: its dotted name, its value and its meaning."""

    name: str
    value: Any
    meaning: str

    @property
    def setting(self) -> str:
        """The setting as an argument of ``--set``."""
        value = self.value if isinstance(self.value, str) else json.dumps(self.value)
        return f"{self.name}={value}"


def keys(recipe: BaseModel, method: str) -> list[Key]:
    """Return all settings of a recipe.

    Args:
        recipe: The recipe.
        method: Its method, whose options are settings.

    Raises:
        ValueError: If the method does not exist.
    """
    return list(_keys(recipe, "", method))


def require_key(name: str, known: Sequence[str]) -> str | None:
    """Return an error message that suggests the nearest key if ``name`` is not known, or None."""
    if name in known:
        return None
    alike = [key for key in known if key.endswith(f".{name}")]
    alike = alike or difflib.get_close_matches(name, known, n=1)
    if not alike:  # such as "temprature" for "options.temperature"
        last = {key.rpartition(".")[2]: key for key in known}
        alike = [last[word] for word in difflib.get_close_matches(name, last, n=1)]
    meant = f"did you mean {alike[0]!r}? " if alike else ""
    return f"unknown setting {name!r}: {meant}`zoo train RECIPE --show` prints all"


def _keys(model: BaseModel, above: str, method: str) -> Iterator[Key]:
    for name, field in type(model).model_fields.items():
        value, path = getattr(model, name), f"{above}{name}"
        inner = _section(field.annotation)
        if path == "options":
            yield from _options(method, value)
        elif inner is not None:
            if value is None:
                yield Key(path, None, field.description or "")
            else:
                yield from _keys(value, f"{path}.", method)
        else:
            plain = model.model_dump(mode="json", include={name})[name]
            yield Key(path, plain, field.description or "")


def _section(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *get_args(annotation)):
        if inspect.isclass(each) and issubclass(each, BaseModel):
            return each
    return None


def _options(method: str, values: dict[str, Any]) -> Iterator[Key]:
    build = find_method(method).build
    owner = getattr(build, "__self__", None)
    text = "\n".join(inspect.getdoc(each) or "" for each in (build, owner) if each is not None)
    parameters = list(inspect.signature(build).parameters.values())[1:]  # the first is the parts
    for parameter in parameters:
        name = parameter.name
        found = re.search(rf"^ +{name}: (.+(?:\n {{8}}.+)*)", text, re.MULTILINE)
        meaning = " ".join(found[1].split()) if found else _OPTIONS.get(name, "")
        yield Key(f"options.{name}", values.get(name, parameter.default), meaning)
