"""A store: a folder that packages are published to, with every revision of them.

    repzoo-store.json              says that this is one, and of which format
    blobs/sha256/DIGEST            files of packages, and their manifests
    repos/NAME/commits/DIGEST      when the revision DIGEST (its manifest's sha256) was published
    repos/NAME/refs/main           the newest revision
    incoming/                      what a writer is working on; empty when there is none

Writers hold a lock and readers none. A reader finds only complete revisions, because files appear
by renaming, blobs before the commit that needs them and the commit before the ref. A writer that
is killed leaves at most blobs that nothing refers to and leftovers in ``incoming``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from repzoo.errors import HubError, IntegrityError, ModelNotFound
from repzoo.files import copy_checked, fsync_folder, locked, open_regular, write_atomically
from repzoo.package import MANIFEST, MAX_MANIFEST_BYTES, FileEntry, Manifest, Package, file_fault
from repzoo.reference import is_digest, is_name, match_revision, no_such_package

__all__ = ["Published", "Store", "is_store"]

MARKER = "repzoo-store.json"
FORMAT_VERSION = 1

_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Published(NamedTuple):
    """What came of publishing a package."""

    name: str
    revision: str
    #: False if the store had this revision already.
    new: bool


class _Commit(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    #: What ``main`` was before.
    parent: str | None
    published: datetime


def is_store(path: Path) -> bool:
    """Whether the folder ``path`` is a store."""
    return (path / MARKER).is_file()


class Store:
    """A store, open for reading with the methods of `repzoo.hubs.Hub`, and for `publish`."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._blobs = self._path / "blobs" / "sha256"
        self._incoming = self._path / "incoming"
        with self._as_hub_error():
            version = json.loads((path / MARKER).read_bytes())["format_version"]
        if version != FORMAT_VERSION:
            raise HubError(f"{path}: store format {version}; this repzoo reads {FORMAT_VERSION}")

    @classmethod
    def create(cls, path: Path) -> Store:
        """Make a store of a folder that is new or empty; one that is a store already stays as is.

        Raises:
            HubError: if the folder holds anything else, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not is_store(path):
                # The marker comes last, so these may be there if this was cut short before.
                parts = {"blobs", "repos", "incoming"}
                if not {entry.name for entry in path.iterdir()} <= parts:
                    raise HubError(f"{path} is not empty: a store needs a folder of its own")
                (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
                (path / "repos").mkdir(exist_ok=True)
                (path / "incoming").mkdir(exist_ok=True)
                marker = json.dumps({"format_version": FORMAT_VERSION}) + "\n"
                write_atomically(path / MARKER, marker.encode())
        except HubError:
            raise
        except OSError as error:
            raise HubError(f"{path}: {error.strerror or error}") from error
        return cls(path)

    @property
    def spec(self) -> str:
        return str(self._path)

    def names(self) -> list[str]:
        with self._as_hub_error():
            there = [entry.name for entry in (self._path / "repos").iterdir()]
        return sorted(name for name in there if is_name(name) and self._ref(name).is_file())

    def revisions(self, name: str) -> list[str]:
        newest = self.resolve(name)
        commits = self._commits(name)
        return sorted(
            commits, key=lambda each: (each == newest, commits[each].published), reverse=True
        )

    def resolve(self, name: str, revision: str | None = None) -> str:
        self._require(name)
        ref = revision or "main"
        if _REF.fullmatch(ref) and self._ref(name, ref).is_file():
            with self._as_hub_error():
                commit = self._ref(name, ref).read_text().strip()
            if not is_digest(commit):
                raise HubError(f"{self._ref(name, ref)} does not hold a revision")
            return commit
        return match_revision(ref, self._commits(name), f"{name} in {self.spec}")

    def manifest(self, name: str, commit: str) -> bytes:
        self._require_commit(name, commit)
        with self._as_hub_error(), open_regular(self._blobs / commit) as file:
            return file.read(MAX_MANIFEST_BYTES + 1)

    def open(self, name: str, commit: str, file: str) -> BufferedReader:
        manifest = Manifest.parse(self.manifest(name, commit), f"{name} in {self.spec}")
        entry = manifest.files.get(file)
        if entry is None:
            raise HubError(f"{self.spec}: {name} has no file {file!r}")
        with self._as_hub_error():
            return open_regular(self._blobs / entry.sha256)

    def publish(self, package: Package) -> Published:
        """Add a package's content as the newest revision of its name.

        Raises:
            IntegrityError: if the package's files are not those of its manifest.
            PackageError: if its config is not valid.
            HubError: if the store cannot be written.
        """
        package.verify()
        name = package.config.name
        with (
            self._as_hub_error(),
            locked(self._path / ".lock", f"it is publishing to {self._path}"),
        ):
            self._clear_incoming()
            for file, entry in package.manifest.files.items():
                self._add_blob(package.path / file, file, entry)
            size = (package.path / MANIFEST).stat().st_size
            entry = FileEntry(size=size, sha256=package.revision)
            self._add_blob(package.path / MANIFEST, MANIFEST, entry)
            fsync_folder(self._blobs)
            return Published(name, package.revision, self._commit(name, package.revision))

    def _commit(self, name: str, revision: str) -> bool:
        repo = self._path / "repos" / name
        commit = repo / "commits" / revision
        commit.parent.mkdir(parents=True, exist_ok=True)
        self._ref(name).parent.mkdir(exist_ok=True)
        fsync_folder(repo)
        fsync_folder(repo.parent)

        parent = self.resolve(name) if self._ref(name).is_file() else None
        new = not commit.is_file()
        if new:
            record = _Commit(parent=parent, published=datetime.now(UTC))
            write_atomically(commit, record.model_dump_json().encode() + b"\n")
        if parent != revision:
            write_atomically(self._ref(name), f"{revision}\n".encode())
        return new

    def _add_blob(self, source: Path, file: str, entry: FileEntry) -> None:
        blob = self._blobs / entry.sha256
        # A blob that went bad on the disk is replaced by a good one.
        if file_fault(self._blobs, entry.sha256, entry) is None:
            return
        new = self._incoming / entry.sha256
        with open_regular(source) as stream:
            fault = copy_checked(stream, new, entry.size, entry.sha256)
        if fault is not None:
            raise IntegrityError(f"{source} changed while it was published: it {fault}", (file,))
        new.chmod(0o444)
        new.replace(blob)

    def _clear_incoming(self) -> None:
        # With the lock in hand, what lies here is a killed writer's.
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(exist_ok=True)

    def _commits(self, name: str) -> dict[str, _Commit]:
        folder = self._path / "repos" / name / "commits"
        commits = {}
        with self._as_hub_error():
            for path in folder.iterdir():
                if is_digest(path.name):
                    commits[path.name] = _Commit.model_validate_json(path.read_bytes())
        return commits

    def _ref(self, name: str, ref: str = "main") -> Path:
        return self._path / "repos" / name / "refs" / ref

    def _require(self, name: str) -> None:
        if not is_name(name) or not self._ref(name).is_file():
            raise no_such_package(self.spec, name, self.names())

    def _require_commit(self, name: str, commit: str) -> None:
        self._require(name)
        path = self._path / "repos" / name / "commits" / commit
        if not is_digest(commit) or not path.is_file():
            raise ModelNotFound(f"{name} in {self.spec} has no revision {commit!r}")

    @contextmanager
    def _as_hub_error(self) -> Iterator[None]:
        try:
            yield
        except HubError:
            raise
        except OSError as error:
            where = os.fsdecode(error.filename) if error.filename else self.spec
            raise HubError(f"{where}: {error.strerror or error}") from error
        except (ValidationError, json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
            raise HubError(f"{self.spec}: the store is damaged: {error}") from error
