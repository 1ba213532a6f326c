"""Well-known names: the aliases and the fallback hub in ``catalogue.json``.

Each of its ``aliases`` stands for a reference. Its ``organisation`` is the hub for names that no
nearer hub has.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Names", "names"]


class Names(NamedTuple):
    """The content of ``catalogue.json``."""

    #: The fallback hub, ``hf://ORG``.
    organisation: str
    #: The reference behind each alias: ``NAME``, ``NAME@REVISION`` or ``hf://ORG/NAME@REVISION``.
    aliases: dict[str, str]


@cache
def names() -> Names:
    """Return the content of ``catalogue.json``."""
    return Names(**json.loads(Path(__file__).with_name("catalogue.json").read_bytes()))
