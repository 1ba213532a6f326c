"""What the cache holds, whether it is intact, and what can be removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from repzoo.cache.cache import Cache
from repzoo.cache.places import Places, names_in
from repzoo.errors import PackageError
from repzoo.files import size_if_there
from repzoo.packages.reference import Reference

__all__ = ["CachedRevision", "Waste", "cached_revisions", "prune", "verify_all", "waste"]


class CachedRevision(NamedTuple):
    """One revision of a package in the cache."""

    name: str
    revision: str
    #: Bytes on disk.
    size: int
    #: The hub of the last pull, or None if it is unknown.
    hub: str | None
    #: The time of the last pull, or None if it is unknown.
    pulled: datetime | None
    #: Whether the name without a revision means this one.
    current: bool


class Waste(NamedTuple):
    """A folder in the cache that is not needed."""

    path: Path
    size: int
    why: str


def cached_revisions(cache: Cache) -> list[CachedRevision]:
    """Return every revision of every package, by name, the current one first."""
    lines = []
    for name in cache.names():
        memory = cache.memory(name)
        newest = memory.newest()
        places = Places(cache.path, name)
        for revision in places.revisions():
            pulls = [record for record in memory.records if record.revision == revision]
            last = max(pulls, key=lambda record: record.last, default=None)
            lines.append(
                CachedRevision(
                    name,
                    revision,
                    _size(places.packages / revision),
                    last.hub if last is not None else None,
                    last.last if last is not None else None,
                    newest is not None and newest.revision == revision,
                )
            )
    return sorted(lines, key=lambda line: (line.name, not line.current, line.revision))


def verify_all(cache: Cache, progress: Callable[[int], object]) -> dict[tuple[str, str], str]:
    """Check every byte of every package, without changing anything.

    Args:
        cache: The cache to check.
        progress: Called with the size of each package in bytes after it was checked.

    Returns:
        What is wrong, by name and revision.
    """
    faults = {}
    for name, revision, size, *_ in cached_revisions(cache):
        try:
            package = cache.find(Reference(name, revision))
            package.verify()
        except (PackageError, OSError) as error:
            faults[name, revision] = str(error)
        progress(size)
    return faults


def waste(cache: Cache) -> list[Waste]:
    """Return what `prune` would remove.

    These are revisions other than the last one pulled from each hub, leftovers of interrupted
    pulls, and bad files in the quarantine.
    """
    lines = []
    for name in cache.names():
        memory = cache.memory(name)
        hubs = {record.hub for record in memory.records}
        newest = {record.revision for hub in hubs if (record := memory.newest(hub)) is not None}
        places = Places(cache.path, name)
        for revision in places.revisions():
            # Without records, an older version may have pulled this, and it may be the only copy.
            if newest and revision not in newest:
                path = places.packages / revision
                lines.append(Waste(path, _size(path), "an older revision"))
    for name in names_in(cache.path, "staging"):
        path = Places(cache.path, name).staging
        lines.append(Waste(path, _size(path), "of an interrupted pull"))
    for name in names_in(cache.path, "quarantine"):
        path = Places(cache.path, name).quarantine
        lines.append(Waste(path, _size(path), "bad files"))
    return [line for line in lines if line.size]


def prune(cache: Cache) -> Iterator[Waste]:
    """Remove what `waste` lists, and yield what was removed.

    Packages that another process is pulling at the moment are left alone.
    """
    for line in waste(cache):
        name, revision = line.path.name, None
        if line.path.parent.parent == cache.path / "packages":
            name, revision = line.path.parent.name, line.path.name
        places = Places(cache.path, name)
        try:
            with places.locked(wait=False):
                if revision is not None:
                    places.remove(revision)
                else:
                    shutil.rmtree(line.path)
        except TimeoutError:
            continue
        yield line


def _size(folder: Path) -> int:
    # A pull that still runs renames its files.
    return sum(
        size_if_there(Path(below, file)) for below, _, files in os.walk(folder) for file in files
    )
