"""Assemble a package in the cache from a hub's files, or repair one."""

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
from repzoo.files import (
    copy_checked,
    fsync_folder,
    open_regular,
    size_if_there,
    write_atomically,
)
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

__all__ = ["Pulled", "RemotePackage", "install"]

_log = logging.getLogger("repzoo")


class RemotePackage(NamedTuple):
    """A package on a hub at one commit, so that two commits are never mixed."""

    hub: Hub
    name: str
    commit: str
    #: How the commit was asked for: ``main``, a tag, or the commit itself.
    asked: str
    #: The bytes of ``manifest.json``.
    data: bytes
    manifest: Manifest

    @property
    def revision(self) -> str:
        """The SHA-256 of the manifest."""
        return hashlib.sha256(self.data).hexdigest()


class Pulled(NamedTuple):
    """The result of a pull."""

    package: Package
    #: The hub that was asked, or None if the cached revision sufficed.
    hub: str | None
    #: Files that were fetched.
    fetched: tuple[str, ...] = ()
    #: Cached files that were bad and were replaced.
    repaired: tuple[str, ...] = ()
    #: Files for people, such as the card, that the hub no longer has.
    skipped: tuple[str, ...] = ()


def install(remote: RemotePackage, places: Places, patience: Patience) -> Pulled:
    """Assemble or repair a package. The caller holds the lock of its places.

    Raises:
        IntegrityError: If files on the hub are bad, even after fetching them again.
        PackageError: If the package on the hub is not valid.
        HubError: If the hub cannot be read.
        NoSpace: If the disk is full.
        OSError: If the cache cannot be written.
    """
    place, staging = places.packages / remote.revision, places.staging / remote.revision
    places.staging.mkdir(parents=True, exist_ok=True)
    damaged = place.exists()
    if damaged:
        # Nobody may use it while it is repaired.
        shutil.rmtree(staging, ignore_errors=True)
        place.rename(staging)
    staging.mkdir(exist_ok=True)

    itself = FileEntry(size=len(remote.data), sha256=remote.revision)
    wanted = {**remote.manifest.files, MANIFEST: itself}
    missing = _remove_bad_files(places, staging, wanted, keep_bad=damaged)
    repaired = tuple(missing) if damaged else ()
    if repaired:
        _log.warning("%s: replacing %s", place, ", ".join(repaired))
    to_fetch = {file: wanted[file] for file in missing if file != MANIFEST}
    for file in _copy_from_other_revisions(places, staging, to_fetch):
        del to_fetch[file]
    _check_space(places, staging, to_fetch)
    download = Download(remote.hub, remote.name, remote.commit, staging, places.put_aside, patience)
    skipped = download.fetch(to_fetch)
    write_atomically(staging / MANIFEST, remote.data)

    try:
        _check(Package.open(staging), remote)
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
    return Pulled(Package.open(place), remote.hub.spec, fetched, repaired, tuple(skipped))


def _check(package: Package, remote: RemotePackage) -> None:
    """Check the content of files whose hashes are right."""
    if package.config.name != remote.name:
        raise PackageError(f"{remote.name} in {remote.hub.spec} calls itself {package.config.name}")
    check_content(package)


def _remove_bad_files(
    places: Places, staging: Path, wanted: Mapping[str, FileEntry], *, keep_bad: bool
) -> list[str]:
    """Leave only good files and parts of files in a folder, and return which files are missing."""
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


def _copy_from_other_revisions(
    places: Places, staging: Path, files: Mapping[str, FileEntry]
) -> list[str]:
    """Copy files that other cached revisions have, and return their names."""
    copied = []
    for revision in places.revisions():
        with suppress(PackageError, FileNotFoundError):
            other = Package.open(places.packages / revision)
            for file, entry in files.items():
                same = file not in copied and other.manifest.files.get(file) == entry
                if same and _copy(other.path / file, staging / file, entry):
                    copied.append(file)
    return copied


def _copy(source: Path, target: Path, entry: FileEntry) -> bool:
    """Copy a file and return whether its content is right."""
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
    """Fail before downloading, not at the end, if the disk is too full.

    Raises:
        NoSpace: If the files do not fit.
    """
    there = sum(size_if_there(part_of(staging / file)) for file in files)
    needed = sum(entry.size for entry in files.values()) - there
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise NoSpace(
            f"{places.cache}: {places.name} needs {_mebibytes(needed)} more, and "
            f"{_mebibytes(free)} are free; free some space (zoo cache prune) or set REPZOO_CACHE "
            "to a folder on another disk"
        )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
