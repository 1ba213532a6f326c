"""The model card and package config of a repository.

Anyone who may write can change both, so bad content causes no error here: content that cannot be
read counts as missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from repzoo.errors import RepzooError
from repzoo.hub_server.library import Library, Revision
from repzoo.hub_server.limits import CARD_BYTES
from repzoo.packages.config import ModelConfig

__all__ = ["Card", "Metric", "check_card", "read_card", "read_config", "read_file"]

_FENCE = "---"
_MAX_METADATA = 2**16
_MAX_TAGS = 100


class Metric(NamedTuple):
    """One result in the card's ``model-index``."""

    dataset: str
    name: str
    value: float


class Card(NamedTuple):
    """``README.md``: YAML metadata, then Markdown."""

    metadata: Mapping[str, Any]
    text: str

    @property
    def tags(self) -> list[str]:
        """The card's tags and other metadata to filter by, in the Hub's format."""
        tags = [*_texts(self.metadata.get("tags"))]
        for key in ("library_name", "pipeline_tag"):
            tags += _texts(self.metadata.get(key))
        for key, prefix in (("datasets", "dataset"), ("license", "license"), ("language", "")):
            tags += [f"{prefix}:{each}".lstrip(":") for each in _texts(self.metadata.get(key))]
        return list(dict.fromkeys(tags))[:_MAX_TAGS]

    @property
    def metrics(self) -> list[Metric]:
        """The results in its ``model-index``."""
        return list(_metrics(self.metadata.get("model-index")))


class _Loader(yaml.SafeLoader):
    """A YAML loader without aliases: a few lines of them can expand to more than all memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)


def check_card(text: str) -> str | None:
    """Return what is wrong with a card's metadata, or None."""
    front, _ = _split(text)
    if front is None:
        return None
    if len(front) > _MAX_METADATA:
        return f"the metadata is longer than {_MAX_METADATA} characters"
    try:
        metadata = _load(front)
    except (RecursionError, ValueError, yaml.YAMLError) as error:
        return f"the metadata is not valid YAML: {error}"
    if metadata is not None and not isinstance(metadata, dict):
        return "the metadata is not a YAML mapping"
    return None


def read_card(library: Library, name: str, revision: Revision) -> Card:
    """Return the card of a revision, which is empty if there is no file."""
    data = read_file(library, name, revision, "README.md")
    return _parse_card(data) if data is not None else Card({}, "")


def read_config(library: Library, name: str, revision: Revision) -> ModelConfig | None:
    """Return the package config of a revision, or None if it has no valid one."""
    data = read_file(library, name, revision, "config.json")
    return _parse_config(data) if data is not None else None


def read_file(library: Library, name: str, revision: Revision, path: str) -> bytes | None:
    """Return the content of a small file, or None if it is missing or large."""
    entry = revision.files.get(path)
    if entry is None or entry.size > CARD_BYTES:
        return None
    try:
        with library.open(name, revision.commit, path) as file:
            return file.read(CARD_BYTES)
    except (OSError, RepzooError):
        return None


@lru_cache(maxsize=256)
def _parse_card(data: bytes) -> Card:
    front, text = _split(data.decode(errors="replace"))
    metadata: Any = None
    if front is not None and len(front) <= _MAX_METADATA:
        try:
            metadata = _load(front)
            # Dates and similar values become text.
            metadata = json.loads(json.dumps(metadata, default=str, allow_nan=False))
        except (RecursionError, TypeError, ValueError, yaml.YAMLError):
            metadata = None
    return Card(metadata if isinstance(metadata, dict) else {}, text)


@lru_cache(maxsize=256)
def _parse_config(data: bytes) -> ModelConfig | None:
    try:
        return ModelConfig.model_validate_json(data)
    except ValidationError:
        return None


def _load(front: str) -> Any:
    return yaml.load(front, Loader=_Loader)


def _split(text: str) -> tuple[str | None, str]:
    first, _, rest = text.partition("\n")
    if first.rstrip() == _FENCE:
        front: list[str] = []
        lines = rest.split("\n")
        for number, line in enumerate(lines):
            if line.rstrip() == _FENCE:
                return "\n".join(front), "\n".join(lines[number + 1 :])
            front.append(line)
    return None, text


def _texts(value: object) -> Iterator[str]:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str) and 0 < len(each) <= 200:
            yield each


def _metrics(index: object) -> Iterator[Metric]:
    for model in _tables(index):
        for result in _tables(model.get("results")):
            dataset = result.get("dataset")
            on = dataset.get("name") if isinstance(dataset, dict) else None
            for metric in _tables(result.get("metrics")):
                name, value = metric.get("name") or metric.get("type"), metric.get("value")
                if isinstance(name, str) and isinstance(value, (int, float)):
                    yield Metric(on if isinstance(on, str) else "", name, value)


def _tables(value: object) -> Iterator[dict[str, Any]]:
    yield from (each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()
