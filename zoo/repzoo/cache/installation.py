"""Making a package in the cache out of what a hub has, or mending one."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from repzoo.cache.downloads import PART, Download, part_of
from repzoo.cache.places import Places
from repzoo.checks.content import check_content
from repzoo.errors import NoSpace, PackageError
from repzoo.files import copy_checked, fsync_folder, open_regular, write_atomically
from repzoo.hub import Hub
from repzoo.packages.package import (
    ADVISORY,
    MANIFEST,
    SIGNATURE,
    FileEntry,
    Manifest,
    Package,
    file_fault,
)
from repzoo.retries import Patience

__all__ = ["Found", "Pulled", "install"]

_log = logging.getLogger("repzoo")


class Found(NamedTuple):
    """A package on a hub: by commit, so that nothing mixes two of them."""

    hub: Hub
    name: str
    commit: str
    #: what the commit was asked for by: ``main``, a tag, or the commit itself.
    asked: str
    #: the bytes of ``manifest.json``.
    data: bytes
    manifest: Manifest

    @property
    def revision(self) -> str:
        """The sha256 of the manifest."""
        return hashlib.sha256(self.data).hexdigest()


class Pulled(NamedTuple):
    """What came of a pull."""

    package: Package
    #: where it came from; None if the revision was there and no hub had to be asked.
    hub: str | None
    #: files that were fetched.
    fetched: tuple[str, ...] = ()
    #: files of the cache that were bad, and were replaced.
    repaired: tuple[str, ...] = ()
    #: files for people, such as the card, that the hub no longer has.
    skipped: tuple[str, ...] = ()


def install(found: Found, places: Places, patience: Patience) -> Pulled:
    """Make or mend a package, of whose places the lock is held.

    Raises:
        IntegrityError: if the hub's own files are bad, even when fetched again.
        PackageError: if the hub's package is not a valid one.
        HubError: if the hub cannot be read.
        NoSpace: if the disk is too full.
        OSError: if the cache cannot be written.
    """
    place, staging = places.packages / found.revision, places.staging / found.revision
    places.staging.mkdir(parents=True, exist_ok=True)
    damaged = place.exists()
    if damaged:
        # Out of sight while it is mended.
        shutil.rmtree(staging, ignore_errors=True)
        place.rename(staging)
    staging.mkdir(exist_ok=True)

    itself = FileEntry(size=len(found.data), sha256=found.revision)
    wanted = {**found.manifest.files, MANIFEST: itself}
    missing = _sort_out(places, staging, wanted, keep_bad=damaged)
    repaired = tuple(missing) if damaged else ()
    if repaired:
        _log.warning("%s: replacing %s", place, ", ".join(repaired))
    to_fetch = {file: wanted[file] for file in missing if file != MANIFEST}
    for file in _take_from_others(places, staging, to_fetch):
        del to_fetch[file]
    _check_space(places, staging, to_fetch)
    download = Download(found.hub, found.name, found.commit, staging, places.put_aside, patience)
    skipped = download.fetch(to_fetch)
    write_atomically(staging / MANIFEST, found.data)

    try:
        _check(Package.open(staging), found)
    except PackageError:
        shutil.rmtree(staging)
        raise
    for folder in {staging, *(Path(staging, file).parent for file in wanted)}:
        fsync_folder(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(place)
    fsync_folder(place.parent)
    places.clear_staging()
    fetched = tuple(file for file in to_fetch if file not in skipped)
    return Pulled(Package.open(place), found.hub.spec, fetched, repaired, tuple(skipped))


def _check(package: Package, found: Found) -> None:
    """Check what the files say, of which each is the manifest's by now."""
    if package.config.name != found.name:
        raise PackageError(f"{found.name} in {found.hub.spec} calls itself {package.config.name}")
    check_content(package)


def _sort_out(
    places: Places, staging: Path, wanted: Mapping[str, FileEntry], *, keep_bad: bool
) -> list[str]:
    """Leave only good files, and parts, in a folder; say which are missing."""
    real_folders = {"probes", "figures"}
    parts = {file + PART for file in wanted if file not in (*ADVISORY, MANIFEST)}
    for entry in sorted(staging.rglob("*")):
        file = entry.relative_to(staging).as_posix()
        plain = not entry.is_symlink()
        if entry.is_dir() and plain and file in real_folders:
            continue
        if file in wanted:
            good = file_fault(staging, file, wanted[file]) is None
        elif file in parts:
            good = plain and entry.is_file() and not (staging / file[: -len(PART)]).exists()
        else:
            good = file == SIGNATURE and plain and entry.is_file()
        if good or not os.path.lexists(entry):
            continue
        if keep_bad:
            places.put_aside(entry)
        elif entry.is_dir() and plain:
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return [file for file in wanted if not (staging / file).exists()]


def _take_from_others(places: Places, staging: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """Copy what other revisions have already; say what that was."""
    taken = []
    for revision in places.revisions():
        with suppress(PackageError, FileNotFoundError):
            other = Package.open(places.packages / revision)
            for file, entry in files.items():
                same = file not in taken and other.manifest.files.get(file) == entry
                if same and _copy(other.path / file, staging / file, entry):
                    taken.append(file)
    return taken


def _copy(source: Path, target: Path, entry: FileEntry) -> bool:
    """Copy a file if it is what it should be."""
    target.parent.mkdir(exist_ok=True)
    copy = target.with_name(target.name + ".copy")
    copy.unlink(missing_ok=True)
    with open_regular(source) as stream:
        good = copy_checked(stream, copy, entry.size, entry.sha256) is None
    if good:
        copy.rename(target)
        part_of(target).unlink(missing_ok=True)
    else:
        copy.unlink()
    return good


def _check_space(places: Places, staging: Path, files: Mapping[str, FileEntry]) -> None:
    """Say at the beginning, not at the end, that the disk is too full."""
    parts = [part_of(staging / file) for file in files]
    there = sum(path.lstat().st_size for path in parts if path.exists())
    needed = sum(entry.size for entry in files.values()) - there
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise NoSpace(
            f"{places.cache}: {places.name} needs {_mebibytes(needed)} more, and "
            f"{_mebibytes(free)} are free; free some (zoo cache prune), or set REPZOO_CACHE to "
            "another disk"
        )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
