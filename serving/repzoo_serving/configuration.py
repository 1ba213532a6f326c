"""Where the settings of a server come from.

The first of these that gives a setting wins:

1. a flag of ``zoo serve``: ``--max-images 64``
2. a variable: ``REPZOO_SERVE_MAX_IMAGES=64``
3. the TOML file that ``--config`` or ``REPZOO_SERVE_CONFIG`` names: ``max_images = 64``
4. the default.

``models`` and ``watch`` are alternatives, so one of them replaces the other from a lower place.
Paths in the file are relative to the file's folder.

A deployment without ``zoo serve`` (``bentoml serve repzoo_serving.service:RepzooService``) has no
flags; ``host`` and ``port`` are BentoML's own options there, and ``index`` is a file that
`repzoo_client.retrieval.PosteriorIndex.export` has written. ``zoo serve`` passes its settings to
its workers as variables.
"""

from __future__ import annotations

import difflib
import json
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from repzoo.errors import InvalidInput

from repzoo_serving.models.references import relative_to
from repzoo_serving.settings import SECTIONS, Settings

__all__ = ["PREFIX", "Configuration", "configure", "flag", "to_environ", "variable"]

PREFIX = "REPZOO_SERVE_"

_CONFIG = PREFIX + "CONFIG"
_ALTERNATIVES = {"models": "watch", "watch": "models"}
_NAMES = tuple(name for names in SECTIONS.values() for name in names)
#: Some of them can be URLs instead.
_PATHS = frozenset({"watch", "hub", "keys", "index", "index_images"})


@dataclass(frozen=True)
class Configuration:
    """Checked settings, and what set each of them, such as ``--rate``.

    A setting that is not in ``sources`` has its default.
    """

    settings: Settings
    sources: Mapping[str, str]

    def to_toml(self) -> str:
        """Return the settings as a file for ``--config``, with their meanings and sources."""
        lines = [
            "# Settings of zoo serve. Save them to a file and pass it as --config FILE.",
            "# A flag wins over a variable, a variable over the file, the file over the default.",
        ]
        for section, names in SECTIONS.items():
            lines += ["", f"# {section}"]
            for name in names:
                field = Settings.model_fields[name]
                lines += ["", *(f"# {line}" for line in textwrap.wrap(field.description or "", 94))]
                value = getattr(self.settings, name)
                if value is None or value == field.default == ():
                    text = f"# {name} is not set"
                else:  # a JSON text of a string, number or list of strings is one of TOML, too
                    text = f"{name} = {json.dumps(value)}"
                source = self.sources.get(name)
                lines.append(text if source is None else f"{text}  # from {source}")
        return "\n".join(lines) + "\n"


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return "--" + name.replace("_", "-")


def configure(
    environ: Mapping[str, str],
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
) -> Configuration:
    """Return the settings that flags, variables and a file give together.

    Args:
        environ: Variables; those without the prefix are ignored.
        flags: Values by the name of the setting; None means not given.
        file: The TOML file; otherwise that of the variable ``REPZOO_SERVE_CONFIG``.

    Raises:
        InvalidInput: If the file cannot be read, a name is unknown, or a value is not valid; the
            message names the flag, the variable, or the file and its key.
    """
    if file is None and environ.get(_CONFIG):
        file = Path(environ[_CONFIG])
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for given in (
        _of_file(file) if file is not None else {},
        _of_variables(environ),
        {n: (value, flag(n)) for n, value in (flags or {}).items() if value is not None},
    ):
        if "models" in given and "watch" in given:
            one, other = given["models"][1], given["watch"][1]
            raise InvalidInput(f"{one} and {other} are alternatives; give only one of them")
        for name, (value, source) in given.items():
            values[name], sources[name] = value, source
            if other_name := _ALTERNATIVES.get(name):
                values.pop(other_name, None)
                sources.pop(other_name, None)
    try:
        return Configuration(Settings.model_validate(values), sources)
    except ValidationError as error:
        problems = "; ".join(_problem(each, sources) for each in error.errors())
        raise InvalidInput(problems) from None


def to_environ(settings: Settings) -> dict[str, str]:
    """Return the variables from which `configure` restores these settings, without a file."""
    values = settings.model_dump(exclude_none=True, exclude_defaults=True)
    return {
        variable(name): json.dumps(value) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }


def _of_file(file: Path) -> dict[str, tuple[Any, str]]:
    """Return the values of a file by name, each with its source."""
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror or error}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise InvalidInput(f"{file} is not a TOML file: {error}") from None
    folder = file.absolute().parent
    for name, value in given.items():
        if name not in _NAMES:
            raise InvalidInput(f"{file}: {_unknown(name, _NAMES)}")
        if isinstance(value, bool):  # otherwise pydantic takes it for a number
            raise InvalidInput(f"{file}: {name}: no setting is true or false")
        given[name] = _within(folder, name, value)
    return {name: (value, f"{file}: {name}") for name, value in given.items()}


def _within(folder: Path, name: str, value: Any) -> Any:
    """Return a value of a file in ``folder``, whose paths are relative to it."""
    if isinstance(value, str) and value:
        if name in _PATHS and "://" not in value:
            return str(folder / value)
        if name == "models":
            value = value.split(",")
    if name == "models" and isinstance(value, list):
        return [relative_to(folder, m.strip()) if isinstance(m, str) else m for m in value]
    return value


def _of_variables(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Return the values of variables by name, each with its source."""
    given = {}
    for each, value in environ.items():
        if not each.startswith(PREFIX) or each == _CONFIG:
            continue
        name = each.removeprefix(PREFIX).lower()
        if name not in Settings.model_fields or variable(name) != each:
            raise InvalidInput(_unknown(each, [*_NAMES, "config"], variable))
        given[name] = (value, each)
    return given


def _unknown(given: str, known: Iterable[str], write: Callable[[str], str] = str) -> str:
    name = given.removeprefix(PREFIX).lower().replace("-", "_")
    alike = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {write(alike[0])}?" if alike else "zoo serve --print-config lists them"
    return f"{given} is not a setting; {hint}"


def _problem(error: ErrorDetails, sources: Mapping[str, str]) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name, *inner = map(str, error["loc"])
    where = ": ".join([sources.get(name, name), *(f"item {index}" for index in inner)])
    return f"{where}: {message}, got {error['input']!r}"
