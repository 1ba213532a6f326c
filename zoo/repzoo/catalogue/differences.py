"""Compare two packages, for `zoo diff`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from repzoo.catalogue.listing import Card
from repzoo.packages.metrics import Measure, measures

__all__ = ["Comparison", "MeasurePair", "compare_cards"]

Side = Literal["a", "b"]


@dataclass(frozen=True)
class MeasurePair:
    """One measure of two packages. A side is None if its package does not have the measure."""

    key: str
    a: Measure | None
    b: Measure | None

    @property
    def same(self) -> bool:
        """Whether both packages have the measure with the same value."""
        return self.a is not None and self.b is not None and self.a.value == self.b.value

    @property
    def comparable(self) -> bool:
        """Whether both packages have the measure, from the same data and protocol."""
        return self.a is not None and self.b is not None and self.a.protocol == self.b.protocol

    @property
    def better(self) -> Side | None:
        """The better side, or None if they are equal or cannot be compared."""
        if self.a is None or self.b is None or self.same or not self.comparable:
            return None
        if self.a.better is None or self.a.better != self.b.better:
            return None
        return "a" if (self.a.value > self.b.value) == (self.a.better == "more") else "b"

    @property
    def within_error(self) -> bool:
        """Whether the values differ by at most two standard errors of the difference."""
        if self.a is None or self.b is None:
            return False
        if self.a.standard_error is None or self.b.standard_error is None:
            return False
        error = math.hypot(self.a.standard_error, self.b.standard_error)
        return abs(self.a.value - self.b.value) <= 2 * error


@dataclass(frozen=True)
class Comparison:
    """The differences between two packages."""

    #: Both values of each config field by its path. None if a config does not have the field.
    config: dict[str, tuple[Any, Any]]
    measures: tuple[MeasurePair, ...]
    #: Files only in b, files only in a, files that differ, and files that are equal.
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]


def compare_cards(a: Card, b: Card) -> Comparison:
    """Compare two packages by their cards."""
    configs = [_flat(card.config.model_dump(mode="json")) for card in (a, b)]
    numbers = [measures(card.metrics) for card in (a, b)]
    files = [card.manifest.files for card in (a, b)]
    shared = sorted(files[0].keys() & files[1].keys())
    return Comparison(
        config={key: (configs[0].get(key), configs[1].get(key)) for key in _union(*configs)},
        measures=tuple(
            MeasurePair(key, numbers[0].get(key), numbers[1].get(key)) for key in _union(*numbers)
        ),
        added=tuple(sorted(files[1].keys() - files[0].keys())),
        removed=tuple(sorted(files[0].keys() - files[1].keys())),
        changed=tuple(name for name in shared if files[0][name] != files[1][name]),
        unchanged=tuple(name for name in shared if files[0][name] == files[1][name]),
    )


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested records to their leaves by dotted path. Lists are leaves, except probes."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if key == "probes":
            value = {f"{probe['task']}.{probe['kind']}": len(probe["classes"]) for probe in value}
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _union(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the keys of both in order, with those of ``a`` first."""
    return [*a, *(key for key in b if key not in a)]
