"""What a cache remembers of its pulls, so that a hub cannot take back what it said.

``pulled/NAME.json`` holds, for every hub, which manifest a tag or a commit had when it was first
pulled from there. Neither may ever have another: who serves a package cannot exchange it unseen.
``main`` moves, and is remembered only to know what was pulled last.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from repzoo.errors import RevisionChanged
from repzoo.files import write_atomically
from repzoo.packages.package import MANIFEST

__all__ = ["MOVES", "Memory", "Record"]

_log = logging.getLogger("repzoo")

#: The branch that moves.
MOVES = "main"

#: Fewer digits of a commit could soon mean another, too.
_SHORTEST = 7

_FRESH = timedelta(days=1)


class Record(BaseModel):
    """One thing that was pulled from a hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hub: str
    #: ``main``, a tag, or a commit.
    asked: str
    #: the sha256 of the manifest that it meant.
    revision: str
    first: datetime
    last: datetime


class Memory(BaseModel):
    """The pulls of one name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: tuple[Record, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Memory:
        """Read a memory; one that is missing or damaged is empty."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError:
            _log.warning("%s is damaged: what was pulled before is forgotten", path)
            return cls()

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.model_dump_json(indent=1).encode() + b"\n")

    def of(self, hub: str | None) -> tuple[Record, ...]:
        """The records of one hub; None: of all."""
        return tuple(record for record in self.records if hub in (None, record.hub))

    def newest(self, hub: str | None = None) -> Record | None:
        """What was pulled last, from one hub or any."""
        return max(self.of(hub), key=lambda record: record.last, default=None)

    def meaning(self, hub: str, asked: str) -> str | None:
        """The revision that a tag or a commit had when it was first pulled from a hub."""
        return next((each.revision for each in self.of(hub) if each.asked == asked), None)

    def meant(self, hub: str | None, asked: str) -> str | None:
        """The revision that a tag, or a commit or its start, had; None unless it is one only."""
        digits = len(asked) >= _SHORTEST
        revisions = {
            record.revision
            for record in self.of(hub)
            if record.asked == asked or (digits and record.asked.startswith(asked))
        }
        return revisions.pop() if len(revisions) == 1 else None

    def check(self, name: str, hub: str, asked: str, revision: str) -> None:
        """Refuse a tag or a commit that has become another revision.

        Raises:
            RevisionChanged: if it has.
        """
        for record in self.of(hub):
            if record.asked == asked != MOVES and record.revision != revision:
                raise RevisionChanged(
                    f"{hub}: {name}@{asked} was {record.revision[:12]} on {record.first:%Y-%m-%d} "
                    f"and is {revision[:12]} now. Somebody changed what must not change: ask who "
                    f"runs the hub. zoo pull {name}@{asked} --accept-change takes what it is now",
                    (MANIFEST,),
                )

    def knows(self, hub: str, asked: tuple[str, ...], revision: str) -> bool:
        """Whether this was pulled last, and not long ago."""
        newest = self.newest()
        if newest is None or (newest.hub, newest.revision) != (hub, revision):
            return False
        fresh = datetime.now(UTC) - newest.last < _FRESH
        return fresh and all(self.meaning(hub, each) == revision for each in asked)

    def adding(self, hub: str, asked: tuple[str, ...], revision: str) -> Memory:
        """This and one more pull: of a revision, by what was asked for and the commit it is."""
        now = datetime.now(UTC)
        kept, new = [], dict.fromkeys(asked, now)
        for record in self.records:
            if record.hub != hub or record.asked not in new:
                kept.append(record)
            elif record.revision == revision:
                new[record.asked] = record.first
        made = [
            Record(hub=hub, asked=each, revision=revision, first=first, last=now)
            for each, first in new.items()
        ]
        return Memory(records=(*kept, *made))
