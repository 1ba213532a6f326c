"""A folder of packages as a read-only hub."""

from __future__ import annotations

import hashlib
from io import BufferedReader
from pathlib import Path

from repzoo.errors import HubError, ModelNotFound
from repzoo.files import open_regular
from repzoo.packages.package import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    check_file_name,
    is_package,
)
from repzoo.packages.reference import is_name, match_revision, no_such_package

__all__ = ["FlatHub"]


class FlatHub:
    """The packages in one folder, each in a subfolder with its name.

    Every package has one revision: its current content. The methods implement `repzoo.hub.Hub`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    @property
    def spec(self) -> str:
        return str(self._path)

    def names(self) -> list[str]:
        try:
            there = [entry.name for entry in self._path.iterdir()]
        except OSError as error:
            raise HubError(f"{self._path}: {error.strerror}") from error
        return sorted(name for name in there if is_name(name) and is_package(self._path / name))

    def revisions(self, name: str) -> list[str]:
        return [hashlib.sha256(self._read_manifest(name)).hexdigest()]

    def resolve(self, name: str, revision: str | None = None) -> str:
        (commit,) = self.revisions(name)
        if revision in (None, "main"):
            return commit
        return match_revision(revision, [commit], f"{name} in {self.spec}")

    def manifest(self, name: str, commit: str) -> bytes:
        data = self._read_manifest(name)
        if hashlib.sha256(data).hexdigest() != commit:
            raise ModelNotFound(f"{name} in {self.spec} has changed in the meantime; try again")
        return data

    def open(self, name: str, commit: str, file: str, start: int = 0) -> BufferedReader:
        path = self._path / name / check_file_name(file)
        try:
            stream = open_regular(path)
            stream.seek(start)
        except OSError as error:
            raise HubError(f"{path}: {error.strerror}") from error
        return stream

    def signature(self, name: str, commit: str) -> bytes | None:
        self.manifest(name, commit)
        path = self._path / name / SIGNATURE
        try:
            with open_regular(path) as file:
                return file.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HubError(f"{path}: {error.strerror}") from error

    def tags(self, name: str) -> dict[str, str]:
        self._read_manifest(name)
        return {}

    def _read_manifest(self, name: str) -> bytes:
        path = self._path / name / MANIFEST
        if not is_name(name) or not is_package(path.parent):
            raise no_such_package(self.spec, name, self.names())
        try:
            with open_regular(path) as file:
                return file.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise HubError(f"{path}: {error.strerror}") from error
