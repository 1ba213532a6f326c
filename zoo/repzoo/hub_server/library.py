"""What is served: a store, or a flat folder, which has one revision of each package.

The Hub's clients expect commits of 40 hex digits, as a store has them. The commit of a package in a
flat folder is the first 40 digits of its revision.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, Protocol

from repzoo.errors import EntryNotFound, HubError
from repzoo.files import open_regular
from repzoo.hubs.flat import FlatHub
from repzoo.hubs.opening import open_hub
from repzoo.packages.package import (
    ADVISORY,
    MANIFEST,
    MAX_ADVISORY_BYTES,
    SIGNATURE,
    FileEntry,
    Manifest,
)
from repzoo.store.store import Store

__all__ = ["FlatLibrary", "Library", "Revision", "StoreLibrary", "open_library", "timestamp"]


class Revision(NamedTuple):
    """One revision of a repository."""

    commit: str
    time: datetime
    message: str
    files: Mapping[str, FileEntry]

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(entry.size for entry in self.files.values())


class Library(Protocol):
    """What the routes read from. Methods raise `ModelNotFound` if a name does not exist."""

    @property
    def store(self) -> Store | None:
        """The writable store, or None if the hub is read-only."""

    def names(self) -> list[str]:
        """Return all repositories, including private ones."""

    def is_private(self, name: str) -> bool:
        """Whether a repository is only shown with a token."""

    def created(self, name: str) -> datetime:
        """Return when a repository was created."""

    def resolve(self, name: str, revision: str | None = None) -> str:
        """Return the commit that a revision means."""

    def history(self, name: str, commit: str) -> list[Revision]:
        """Return a commit and all its ancestors, newest first."""

    def revision(self, name: str, commit: str) -> Revision:
        """Return the content of a commit."""

    def tags(self, name: str) -> dict[str, str]:
        """Return the commit of every tag."""

    def open(self, name: str, commit: str, path: str) -> BufferedReader:
        """Open a file."""


class StoreLibrary:
    """The library of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def store(self) -> Store | None:
        return self._store

    def names(self) -> list[str]:
        return [repository.name for repository in self._store.repositories()]

    def is_private(self, name: str) -> bool:
        return self._store.repository(name).settings.private

    def created(self, name: str) -> datetime:
        return self._store.repository(name).settings.created

    def resolve(self, name: str, revision: str | None = None) -> str:
        return self._store.repository(name).resolve(revision)

    def history(self, name: str, commit: str) -> list[Revision]:
        history = self._store.repository(name).history(commit)
        return [Revision(each, read.time, read.message, read.files) for each, read in history]

    def revision(self, name: str, commit: str) -> Revision:
        read = self._store.repository(name).commit(commit)
        return Revision(commit, read.time, read.message, read.files)

    def tags(self, name: str) -> dict[str, str]:
        return self._store.repository(name).tags()

    def open(self, name: str, commit: str, path: str) -> BufferedReader:
        return self._store.repository(name).open(commit, path)


class FlatLibrary:
    """The library of a flat folder, with its current content."""

    def __init__(self, path: Path) -> None:
        self._hub = FlatHub(path)
        self._path = Path(self._hub.spec)

    @property
    def store(self) -> Store | None:
        return None

    def names(self) -> list[str]:
        return self._hub.names()

    def is_private(self, name: str) -> bool:
        self._hub.resolve(name)
        return False

    def created(self, name: str) -> datetime:
        self._hub.resolve(name)
        return datetime.fromtimestamp((self._path / name / MANIFEST).stat().st_mtime, UTC)

    def resolve(self, name: str, revision: str | None = None) -> str:
        return self._hub.resolve(name, revision)[:40]

    def history(self, name: str, commit: str) -> list[Revision]:
        return [self.revision(name, commit)]

    def revision(self, name: str, commit: str) -> Revision:
        digest = self._hub.resolve(name, commit)
        data = self._hub.manifest(name, digest)
        files = dict(Manifest.parse(data, name).files)
        files[MANIFEST] = FileEntry(size=len(data), sha256=digest)
        # These may differ from the manifest or are not in it.
        for path in (*ADVISORY, SIGNATURE):
            files.pop(path, None)
            entry = _entry(self._path / name / path)
            if entry is not None:
                files[path] = entry
        return Revision(digest[:40], self.created(name), "current content of the folder", files)

    def tags(self, name: str) -> dict[str, str]:
        return self._hub.tags(name)

    def open(self, name: str, commit: str, path: str) -> BufferedReader:
        entry = self.revision(name, commit).files.get(path)
        if entry is None:
            raise EntryNotFound(f"{name} has no file {path!a}")
        file = self._path / name / path
        if file.parent.is_symlink():
            raise HubError(f"{file} is behind a symbolic link")
        try:
            stream = open_regular(file)
        except OSError as error:
            raise HubError(f"{file}: {error.strerror}") from error
        if os.fstat(stream.fileno()).st_size != entry.size:
            stream.close()
            raise HubError(f"{file} does not have the size in its manifest")
        return stream


def open_library(path: Path) -> Library:
    """Open the library in a folder.

    Raises:
        HubError: If the folder is not a hub.
    """
    hub = open_hub(path)
    return StoreLibrary(hub) if isinstance(hub, Store) else FlatLibrary(path)


def timestamp(moment: datetime) -> str:
    """Format a time as the Hub does; its client reads no other format."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _entry(path: Path) -> FileEntry | None:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_ADVISORY_BYTES + 1)
    except OSError:
        return None
    if len(data) > MAX_ADVISORY_BYTES:
        return None
    return FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
