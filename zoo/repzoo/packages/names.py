"""What names mean beside those of packages: ``catalogue.json``, which comes with repzoo.

It has ``aliases``, each for a reference, and the ``organisation``, which is the hub for names that
no nearer one has.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Names", "names"]


class Names(NamedTuple):
    """The content of ``catalogue.json``."""

    #: a hub such as ``hf://ORG``.
    organisation: str
    #: what each short name stands for: ``NAME``, ``NAME@REVISION`` or ``hf://ORG/NAME@REVISION``.
    aliases: dict[str, str]


@cache
def names() -> Names:
    """Read the catalogue's names."""
    return Names(**json.loads(Path(__file__).with_name("catalogue.json").read_bytes()))
