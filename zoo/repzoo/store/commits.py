"""Commits of a store: what a repository held after a change, and how one follows from another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from repzoo.errors import EntryNotFound, InvalidInput
from repzoo.packages.package import FileEntry
from repzoo.store.paths import check_path

__all__ = ["MAX_FILES", "Add", "Change", "Commit", "Delete", "apply", "is_commit"]

#: files in one revision, and changes in one commit.
MAX_FILES = 10_000
#: folders deleted in one commit: each of them is looked for among all files.
_MAX_FOLDERS = 200

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Commit(BaseModel):
    """One revision of a repository: all its files, and what it followed.

    It is named by the first 40 hex digits of the sha256 of its JSON, so its name holds its whole
    content and all that was before; 40, because that is how long the Hub's own are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: the commit that this one changed; None for a repository's first.
    parent: str | None = Field(pattern=r"^[0-9a-f]{40}$")
    time: datetime
    message: str
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _safe_paths(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for path in files:
            check_path(path)
        return files

    def encode(self) -> tuple[str, bytes]:
        """The commit's name, and its JSON."""
        data = self.model_dump_json().encode() + b"\n"
        return _name(data), data

    @classmethod
    def decode(cls, name: str, data: bytes) -> Commit:
        """Read a commit's JSON.

        Raises:
            ValueError: if it is not that of the commit ``name``, or no commit at all.
        """
        if _name(data) != name:
            raise ValueError(f"the commit {name} does not have the sha256 that its name says")
        return cls.model_validate_json(data)


class Add(NamedTuple):
    """Put a file, whose bytes are in the store already, at a path."""

    path: str
    entry: FileEntry


class Delete(NamedTuple):
    """Take a file away, or with a slash at its end a folder."""

    path: str


Change = Add | Delete


def is_commit(text: str) -> bool:
    """Whether ``text`` can be a commit's name, and so is safe as a file name."""
    return _COMMIT.fullmatch(text) is not None


def apply(files: Mapping[str, FileEntry], changes: Iterable[Change]) -> dict[str, FileEntry]:
    """The files of a revision after ``changes``, in that order.

    Raises:
        EntryNotFound: if something to delete is not there.
        InvalidInput: if a path cannot be one, a file would lie where a folder is, or there would
            be too many files.
    """
    result = dict(files)
    folders = 0
    for change in changes:
        if isinstance(change, Add):
            result[check_path(change.path)] = change.entry
        elif change.path.endswith("/"):
            folders += 1
            if folders > _MAX_FOLDERS:
                raise InvalidInput(f"more than {_MAX_FOLDERS} folders to delete in one commit")
            below = [path for path in result if path.startswith(change.path)]
            if not below:
                raise EntryNotFound(f"there is no folder {change.path!a} to delete")
            for path in below:
                del result[path]
        elif result.pop(change.path, None) is None:
            # The Hub's words, which its client knows.
            raise EntryNotFound(f"A file with this name doesn't exist: {change.path!a}")
    if len(result) > MAX_FILES:
        raise InvalidInput(f"{len(result)} files: a repository holds at most {MAX_FILES}")
    _check_folders(result)
    return dict(sorted(result.items()))


def _check_folders(files: Mapping[str, FileEntry]) -> None:
    for path in files:
        folder, slash, _ = path.rpartition("/")
        while slash:
            if folder in files:
                raise InvalidInput(f"{folder!a} is a file, so {path!a} cannot lie in it")
            folder, slash, _ = folder.rpartition("/")


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:40]
