"""What the cache remembers about its pulls, so that a hub cannot silently change a revision.

``pulled/NAME.json`` records the manifest that each tag and commit of each hub had when it was first
pulled. Neither may change afterwards. ``main`` moves; it is recorded only to know the last pull.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from repzoo.errors import RevisionChanged
from repzoo.files import write_atomically
from repzoo.packages.package import MANIFEST

__all__ = ["MOVING", "Memory", "Record"]

_log = logging.getLogger("repzoo")

#: The branch that moves.
MOVING = "main"

#: Fewer digits of a commit could easily become ambiguous.
_SHORTEST = 7

_FRESH = timedelta(days=1)


class Record(BaseModel):
    """One thing that was pulled from a hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hub: str
    #: ``main``, a tag, or a commit.
    asked: str
    #: The SHA-256 of the manifest that it meant.
    revision: str
    first: datetime
    last: datetime


class Memory(BaseModel):
    """The recorded pulls of one package name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: tuple[Record, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Memory:
        """Read a memory file. A missing or damaged one counts as empty."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except ValidationError:
            _log.warning("%s is damaged: earlier pulls are forgotten", path)
            return cls()

    def write(self, path: Path) -> None:
        """Write the memory atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.model_dump_json(indent=1).encode() + b"\n")

    def of(self, hub: str | None) -> tuple[Record, ...]:
        """Return the records of one hub, or of all hubs if it is None."""
        return tuple(record for record in self.records if hub in (None, record.hub))

    def newest(self, hub: str | None = None) -> Record | None:
        """Return the last pull, from one hub or from any."""
        return max(self.of(hub), key=lambda record: record.last, default=None)

    def meaning(self, hub: str, asked: str) -> str | None:
        """Return the revision that a tag or commit had when it was first pulled from a hub."""
        return next((each.revision for each in self.of(hub) if each.asked == asked), None)

    def meant(self, hub: str | None, asked: str) -> str | None:
        """Return the revision of a tag, commit or short commit, or None if it is ambiguous."""
        digits = len(asked) >= _SHORTEST
        revisions = {
            record.revision
            for record in self.of(hub)
            if record.asked == asked or (digits and record.asked.startswith(asked))
        }
        return revisions.pop() if len(revisions) == 1 else None

    def check(self, name: str, hub: str, asked: str, revision: str) -> None:
        """Check that a tag or commit still means the revision that it meant at the first pull.

        Raises:
            RevisionChanged: If it means another revision now.
        """
        for record in self.of(hub):
            if record.asked == asked != MOVING and record.revision != revision:
                raise RevisionChanged(
                    f"{hub}: {name}@{asked} was {record.revision[:12]} on {record.first:%Y-%m-%d} "
                    f"and is {revision[:12]} now, although tags and commits must not change. Ask "
                    f"the owner of the hub. To accept the new content: zoo pull {name}@{asked} "
                    "--accept-change",
                    (MANIFEST,),
                )

    def is_up_to_date(self, hub: str, asked: tuple[str, ...], revision: str) -> bool:
        """Whether this revision was the last pull, less than a day ago."""
        newest = self.newest()
        if newest is None or (newest.hub, newest.revision) != (hub, revision):
            return False
        fresh = datetime.now(UTC) - newest.last < _FRESH
        return fresh and all(self.meaning(hub, each) == revision for each in asked)

    def adding(self, hub: str, asked: tuple[str, ...], revision: str) -> Memory:
        """Return a memory with one more pull.

        Args:
            hub: The hub that it came from.
            asked: What was asked for, and the commit that it meant.
            revision: The SHA-256 of its manifest.
        """
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
