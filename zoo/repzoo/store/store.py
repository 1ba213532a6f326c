"""A store: a folder that packages are published to, with every revision of them.

    repzoo-store.json       says that this is one, and of which format
    blobs/, incoming/       the content of all files, see `repzoo.store.blobs`
    repos/NAME/             which files were where and when, see `repzoo.store.repository`

Writers hold a lock only for the moment of a commit, and readers none. A writer that is killed
leaves at most content that nothing refers to, and leftovers in ``incoming``.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path

from repzoo.errors import HubError, IntegrityError, InvalidInput, ModelNotFound, PackageError
from repzoo.files import fsync_folder, locked, open_regular, write_atomically
from repzoo.hub import Published
from repzoo.packages.package import (
    ADVISORY,
    MANIFEST,
    MAX_ADVISORY_BYTES,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    FileEntry,
    Package,
    check_file_name,
    file_fault,
)
from repzoo.packages.reference import is_name, no_such_package
from repzoo.store.blobs import Blobs
from repzoo.store.commits import Add, Change, Delete
from repzoo.store.guard import as_hub_error
from repzoo.store.repository import Files, Repository

__all__ = ["Store", "is_store"]

MARKER = "repzoo-store.json"
FORMAT_VERSION = 2

_CHUNK = 2**20


def is_store(path: Path) -> bool:
    """Whether the folder ``path`` is a store."""
    return (path / MARKER).is_file()


class Store:
    """A store, with the methods of `repzoo.hub.WritableHub`, and its repositories for a server."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.blobs = Blobs(self.path)
        with as_hub_error(str(path)):
            version = json.loads((path / MARKER).read_bytes())["format_version"]
        if version != FORMAT_VERSION:
            raise HubError(f"{path}: store format {version}; this repzoo reads {FORMAT_VERSION}")

    @classmethod
    def create(cls, path: Path) -> Store:
        """Make a store of a folder that is new or empty; one that is a store already stays as is.

        Raises:
            HubError: if the folder holds anything else, or cannot be made.
        """
        with as_hub_error(str(path)):
            path.mkdir(parents=True, exist_ok=True)
            if not is_store(path):
                # The marker comes last, so these may be there if this was cut short before.
                parts = {"blobs", "repos", "incoming"}
                if not {entry.name for entry in path.iterdir()} <= parts:
                    raise HubError(f"{path} is not empty: a store needs a folder of its own")
                (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
                (path / "repos").mkdir(exist_ok=True)
                (path / "incoming").mkdir(exist_ok=True)
                fsync_folder(path / "blobs")
                marker = json.dumps({"format_version": FORMAT_VERSION}) + "\n"
                write_atomically(path / MARKER, marker.encode())
        return cls(path)

    @property
    def spec(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        names = []
        for repository in self.repositories():
            try:
                is_package = MANIFEST in repository.commit(repository.head()).files
            except (HubError, ModelNotFound):
                is_package = True  # a damaged one, which is not to hide the others
            if is_package:
                names.append(repository.name)
        return names

    def revisions(self, name: str) -> list[str]:
        history = self.repository(name).history()
        return [name for name, commit in history if MANIFEST in commit.files]

    def resolve(self, name: str, revision: str | None = None) -> str:
        return self.repository(name).resolve(revision)

    def manifest(self, name: str, commit: str) -> bytes:
        data = self._read(name, commit, MANIFEST, MAX_MANIFEST_BYTES)
        if data is None:
            raise PackageError(f"{name} in {self.spec} is not a package in {commit[:12]}")
        return data

    def signature(self, name: str, commit: str) -> bytes | None:
        return self._read(name, commit, SIGNATURE, MAX_ADVISORY_BYTES)

    def open(self, name: str, commit: str, file: str, start: int = 0) -> BufferedReader:
        stream = self.repository(name).open(commit, file)
        stream.seek(start)
        return stream

    def tags(self, name: str) -> dict[str, str]:
        return self.repository(name).tags()

    def publish(
        self,
        package: Package,
        *,
        message: str | None = None,
        tag: str | None = None,
        private: bool = False,
    ) -> Published:
        """Add a package's content as the newest revision of its name.

        Files of an older revision that are no part of a package stay.

        Args:
            package: with its signature, if it has one.
            message: what changed, for those who read the history.
            tag: a name for the revision.
            private: have a server show the repository to those who have a token only. One that is
                private stays so.

        Raises:
            IntegrityError: if the package's files are not those of its manifest.
            PackageError: if its config is not valid.
            Conflict: if another revision has the tag.
            HubError: if the store cannot be written.
        """
        package.verify()
        name = package.config.name
        repository = Repository(self.path / "repos" / name, self.blobs, self.lock)
        if tag is not None and repository.exists and not self._is_at(repository, package):
            repository.check_tag(tag)
        with as_hub_error(self.spec):
            self.blobs.clear_leftovers()
            entries = self._add_blobs(package)

        def changes(there: Files) -> list[Change]:
            gone = [file for file in there if _is_ours(file) and file not in entries]
            return [*map(Delete, gone), *(Add(file, entry) for file, entry in entries.items())]

        commit, new = repository.change(
            changes,
            message or f"Publish {name} {package.revision[:12]}",
            tag=tag,
            private=True if private else None,
        )
        return Published(name, package.revision, commit, new)

    def repositories(self) -> list[Repository]:
        """The repositories, by name, whatever is in them."""
        folder = self.path / "repos"
        with as_hub_error(self.spec):
            names = sorted(entry.name for entry in folder.iterdir() if is_name(entry.name))
        there = [Repository(folder / name, self.blobs, self.lock) for name in names]
        return [repository for repository in there if repository.exists]

    def repository(self, name: str) -> Repository:
        """The repository of that name.

        Raises:
            ModelNotFound: if there is none.
        """
        if is_name(name):
            repository = Repository(self.path / "repos" / name, self.blobs, self.lock)
            if repository.exists:
                return repository
        raise no_such_package(self.spec, name, [each.name for each in self.repositories()])

    def new_repository(self, name: str) -> Repository:
        """A repository that may not be there yet.

        Raises:
            InvalidInput: if there cannot be one of that name.
        """
        if not is_name(name):
            raise InvalidInput(
                f"{name[:100]!a} is not a model's name, which is of lower-case letters, digits"
                " and . _ -"
            )
        return Repository(self.path / "repos" / name, self.blobs, self.lock)

    def lock(self) -> AbstractContextManager[None]:
        """What a writer holds while it changes anything but ``blobs`` and ``incoming``."""
        return locked(self.path / ".lock", f"it is publishing to {self.path}")

    def _is_at(self, repository: Repository, package: Package) -> bool:
        entry = repository.commit(repository.head()).files.get(MANIFEST)
        return entry is not None and entry.sha256 == package.revision

    def _add_blobs(self, package: Package) -> dict[str, FileEntry]:
        size = (package.path / MANIFEST).stat().st_size
        entries = {**package.manifest.files}
        entries[MANIFEST] = FileEntry(size=size, sha256=package.revision)
        for file, entry in entries.items():
            if file not in ADVISORY:
                self._add_blob(package.path / file, file, entry)
        # These are taken as they are.
        for file in (*ADVISORY, SIGNATURE):
            entries.pop(file, None)
            if (package.path / file).exists():
                entries[file] = self._add_blob(package.path / file, file, None)
        return entries

    def _add_blob(self, source: Path, file: str, entry: FileEntry | None) -> FileEntry:
        # A blob that went bad on the disk is replaced by a good one.
        if entry is not None and file_fault(self.blobs.folder, entry.sha256, entry) is None:
            return entry
        limit = entry.size if entry is not None else MAX_ADVISORY_BYTES
        with open_regular(source) as stream, self.blobs.receive(limit) as upload:
            # One byte more than it should have shows that it grew.
            while piece := stream.read(min(_CHUNK, limit - upload.size + 1)):
                upload.write(piece)
            try:
                return upload.keep(entry)
            except IntegrityError as error:
                raise IntegrityError(
                    f"{source} changed while it was published: {error}", (file,)
                ) from None

    def _read(self, name: str, commit: str, file: str, limit: int) -> bytes | None:
        repository = self.repository(name)
        if file not in repository.commit(commit).files:
            return None
        with repository.open(commit, file) as stream, as_hub_error(self.spec):
            return stream.read(limit + 1)


def _is_ours(file: str) -> bool:
    """Whether a file is one that packages have, so that one without it takes it away."""
    if file in (MANIFEST, SIGNATURE):
        return True
    try:
        check_file_name(file)
    except ValueError:
        return False
    return True
