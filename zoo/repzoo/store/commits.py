"""Commits of a store: the content of a repository after each change."""

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

#: The maximum number of files in one revision, and of changes in one commit.
MAX_FILES = 10_000
#: The maximum number of folders deleted in one commit: each is searched among all files.
_MAX_FOLDERS = 200

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Commit(BaseModel):
    """One revision of a repository: all its files and its parent.

    Its name is the first 40 hex digits of the SHA-256 of its JSON, so the name commits to the whole
    content and history. The Hub's own commit names have 40 digits, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The commit before this one, or None for a repository's first.
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
        """Return the commit's name and its JSON."""
        data = self.model_dump_json().encode() + b"\n"
        return _name(data), data

    @classmethod
    def decode(cls, name: str, data: bytes) -> Commit:
        """Read a commit's JSON.

        Raises:
            ValueError: If it is not the JSON of the commit ``name``.
        """
        if _name(data) != name:
            raise ValueError(f"the content of commit {name} does not match its name")
        return cls.model_validate_json(data)


class Add(NamedTuple):
    """Put a file at a path. Its bytes are in the store already."""

    path: str
    entry: FileEntry


class Delete(NamedTuple):
    """Delete a file, or a folder if the path ends with a slash."""

    path: str


Change = Add | Delete


def is_commit(text: str) -> bool:
    """Whether a text can be a commit's name, and so is safe as a file name."""
    return _COMMIT.fullmatch(text) is not None


def apply(files: Mapping[str, FileEntry], changes: Iterable[Change]) -> dict[str, FileEntry]:
    """Return the files of a revision after applying changes in order.

    Raises:
        EntryNotFound: If a file or folder to delete does not exist.
        InvalidInput: If a path is not valid, a file and a folder have the same path, or there are
            too many files.
    """
    result = dict(files)
    folders = 0
    for change in changes:
        if isinstance(change, Add):
            result[check_path(change.path)] = change.entry
        elif change.path.endswith("/"):
            folders += 1
            if folders > _MAX_FOLDERS:
                raise InvalidInput(f"a commit may delete at most {_MAX_FOLDERS} folders")
            below = [path for path in result if path.startswith(change.path)]
            if not below:
                raise EntryNotFound(f"cannot delete the folder {change.path!a}: it does not exist")
            for path in below:
                del result[path]
        elif result.pop(change.path, None) is None:
            # The Hub's client expects these words.
            raise EntryNotFound(f"A file with this name doesn't exist: {change.path!a}")
    if len(result) > MAX_FILES:
        raise InvalidInput(f"{len(result)} files; a repository may have at most {MAX_FILES}")
    _check_folders(result)
    return dict(sorted(result.items()))


def _check_folders(files: Mapping[str, FileEntry]) -> None:
    for path in files:
        folder, slash, _ = path.rpartition("/")
        while slash:
            if folder in files:
                raise InvalidInput(f"{folder!a} is a file, so {path!a} cannot be inside it")
            folder, slash, _ = folder.rpartition("/")


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:40]
