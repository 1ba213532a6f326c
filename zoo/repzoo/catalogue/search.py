"""Search packages by their properties and measures, for `zoo find`."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

from repzoo.catalogue.listing import Card
from repzoo.errors import InvalidInput
from repzoo.packages.metrics import Measure, measures

__all__ = ["Condition", "Criteria", "parse_size"]

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_CONDITION = re.compile(r"\s*([^\s<>=]+)\s*(>=|<=|>|<|=)\s*([-+0-9.eE]+)\s*(%?)\s*")
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg]?)(i?)b?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Condition:
    """A bound on a measure, such as ``knn>0.9`` or ``class.linear>=95%``."""

    #: A measure's key or name, or the part of its name before an underscore.
    name: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse ``NAME>NUMBER``. The operators are > >= < <= =, and the number may be a percentage.

        Raises:
            InvalidInput: If the text is not a condition.
        """
        match = _CONDITION.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            name, sign, number, percent = match.groups()
            return cls(name, sign, float(number) / (100 if percent else 1))
        except ValueError:
            raise InvalidInput(f"{text!r} is not a condition such as 'knn>0.9'") from None

    def best(self, found: dict[str, Measure], task: str | None = None) -> Measure | None:
        """Return the matching measure that satisfies the bound best, or None if none matches."""
        matching = [
            measure
            for measure in found.values()
            if (
                self.name in (measure.key, measure.name) or measure.name.startswith(f"{self.name}_")
            )
            and task in (None, measure.task)
        ]
        choose = min if self.sign.startswith("<") else max
        return choose(matching, key=lambda measure: measure.value) if matching else None

    def holds(self, measure: Measure | None) -> bool:
        """Whether a measure exists and satisfies the bound."""
        return measure is not None and bool(_OPERATORS[self.sign](measure.value, self.bound))


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """The requirements of a search. None and empty values match everything."""

    text: str | None = None
    method: str | None = None
    dataset: str | None = None
    task: str | None = None
    has_posterior: bool = False
    has_decoder: bool = False
    has_uncertainty: bool = False
    #: In bytes.
    max_size: int | None = None
    conditions: tuple[Condition, ...] = ()

    def fits(self, card: Card) -> bool:
        """Whether a package meets all requirements."""
        config = card.config
        found = measures(card.metrics)
        recipe = config.training.recipe if config.training is not None else ""
        words = f"{config.name} {config.summary} {recipe}".casefold()
        return (
            (self.text is None or all(word in words for word in self.text.casefold().split()))
            and _same(self.method, config.method)
            and _same(self.dataset, config.dataset)
            and (self.task is None or any(_same(self.task, p.task) for p in config.probes))
            and (config.has_posterior or not self.has_posterior)
            and (config.has_decoder or not self.has_decoder)
            and (config.uncertainty is not None or not self.has_uncertainty)
            and (self.max_size is None or card.manifest.size <= self.max_size)
            and all(each.holds(each.best(found, self.task)) for each in self.conditions)
        )


def parse_size(text: str) -> int:
    """Parse a size such as ``50MB``, ``1.5GiB`` or ``1000``. MB is 10^6 and MiB 2^20 bytes.

    Returns:
        The size in bytes.

    Raises:
        InvalidInput: If the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] and not match[2]) or len(match[1]) > 30:
        raise InvalidInput(f"{text!r} is not a size such as 50MB or 1.5GiB")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmg".index(prefix.lower() or " "))


def _same(wanted: str | None, name: str) -> bool:
    """Whether two names are equal, ignoring case and separators."""
    return wanted is None or _plain(wanted) == _plain(name)


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]", "", name).casefold()
