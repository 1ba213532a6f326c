"""What lies in a cache, whether it is right, and what of it can go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from repzoo.cache.cache import Cache
from repzoo.errors import PackageError
from repzoo.packages.reference import Reference, is_name

__all__ = ["Held", "Waste", "held", "prune", "verify_all", "waste"]


class Held(NamedTuple):
    """One revision of a package in the cache."""

    name: str
    revision: str
    #: bytes on the disk.
    size: int
    #: the hub that it was pulled from last, and when; None if that is not known.
    hub: str | None
    pulled: datetime | None
    #: whether the name alone means this revision.
    current: bool


class Waste(NamedTuple):
    """Something that nobody needs."""

    path: Path
    size: int
    why: str


def held(cache: Cache) -> list[Held]:
    """Every revision of every package, by name, the current one first."""
    lines = []
    for name in cache.names():
        memory = cache.memory(name)
        newest = memory.newest()
        for revision in cache.revisions(name):
            pulls = [record for record in memory.records if record.revision == revision]
            last = max(pulls, key=lambda record: record.last, default=None)
            lines.append(
                Held(
                    name,
                    revision,
                    _size(cache.path / "packages" / name / revision),
                    last.hub if last is not None else None,
                    last.last if last is not None else None,
                    newest is not None and newest.revision == revision,
                )
            )
    return sorted(lines, key=lambda line: (line.name, not line.current, line.revision))


def verify_all(cache: Cache, progress: Callable[[int], object]) -> dict[tuple[str, str], str]:
    """Check every byte of every package; what is wrong with which, by name and revision.

    Args:
        cache: the cache to check; nothing in it is changed.
        progress: called with the bytes of a package when it was checked.
    """
    faults = {}
    for name, revision, size, *_ in held(cache):
        try:
            package = cache.find(Reference(name, revision))
            package.verify()
        except (PackageError, OSError) as error:
            faults[name, revision] = str(error)
        progress(size)
    return faults


def waste(cache: Cache) -> list[Waste]:
    """What `prune` would remove.

    That is: revisions that are not the last that was pulled from any hub, what pulls that were cut
    short left, and bad files that were put aside.
    """
    lines = []
    for name in cache.names():
        memory = cache.memory(name)
        hubs = {record.hub for record in memory.records}
        newest = {record.revision for hub in hubs if (record := memory.newest(hub)) is not None}
        for revision in cache.revisions(name):
            # What nothing is known of was not pulled by this version; it may be all there is.
            if newest and revision not in newest:
                place = cache.path / "packages" / name / revision
                lines.append(Waste(place, _size(place), "an older revision"))
    for area, why in (("staging", "of a pull that was cut short"), ("quarantine", "bad files")):
        for path in _folders(cache.path / area):
            if size := _size(path):
                lines.append(Waste(path, size, why))
    return lines


def prune(cache: Cache) -> Iterator[Waste]:
    """Remove what `waste` lists; gives what was removed.

    What belongs to a package that another process is pulling right now stays.
    """
    for line in waste(cache):
        name = line.path.relative_to(cache.path).parts[1]
        lock = FileLock(cache.path / "locks" / f"{name}.lock")
        lock_folder = cache.path / "locks"
        lock_folder.mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            if line.path.parent.parent.name == "packages":
                # Out of sight in one step: a removal that is killed leaves no half package.
                aside = cache.path / "staging" / name
                aside.mkdir(parents=True, exist_ok=True)
                doomed = line.path.rename(aside / f"{line.path.name}.old")
            else:
                doomed = line.path
            shutil.rmtree(doomed)
        finally:
            lock.release()
        yield line


def _folders(area: Path) -> list[Path]:
    if not area.is_dir():
        return []
    return sorted(path for path in area.iterdir() if is_name(path.name) and path.is_dir())


def _size(folder: Path) -> int:
    return sum(
        Path(below, file).lstat().st_size for below, _, files in os.walk(folder) for file in files
    )
