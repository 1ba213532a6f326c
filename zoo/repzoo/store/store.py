"""A store: a folder that packages are published to, with every revision of them.

    repzoo-store.json       marks the folder as a store and states its format version
    blobs/, incoming/       the contents of all files, see `repzoo.store.blobs`
    repos/NAME/             the revisions of one package, see `repzoo.store.repository`

Writers hold a lock only while they commit, and readers hold none. A writer that is killed leaves
at most unreferenced content and leftovers in ``incoming``.
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
    """Whether a folder is a store."""
    return (path / MARKER).is_file()


class Store:
    """A store. It implements `repzoo.hub.WritableHub` and gives servers its repositories."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.blobs = Blobs(self.path)
        with as_hub_error(str(path)):
            version = json.loads((path / MARKER).read_bytes())["format_version"]
        if version != FORMAT_VERSION:
            raise HubError(
                f"{path} has store format {version}; this version reads {FORMAT_VERSION}"
            )

    @classmethod
    def create(cls, path: Path) -> Store:
        """Make a store in a new or empty folder. An existing store is left as it is.

        Raises:
            HubError: If the folder contains anything else, or cannot be created.
        """
        with as_hub_error(str(path)):
            path.mkdir(parents=True, exist_ok=True)
            if not is_store(path):
                # The marker is written last, so an interrupted attempt may have left these.
                parts = {"blobs", "repos", "incoming"}
                if not {entry.name for entry in path.iterdir()} <= parts:
                    raise HubError(f"{path} is not empty: a store needs an empty folder")
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
                is_package = True  # a damaged repository must not hide the others
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
            raise PackageError(f"{name} in {self.spec} has no {MANIFEST} in {commit[:12]}")
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
        """Add a package as the newest revision of its name.

        Files of an older revision that do not belong to a package are kept.

        Args:
            package: The package, with its signature if it has one.
            message: A description for the history.
            tag: A tag for the revision.
            private: Let servers show the repository only with a token. A private repository stays
                private.

        Raises:
            IntegrityError: If the package's files do not match its manifest.
            PackageError: If its config is not valid.
            Conflict: If another revision has the tag.
            HubError: If the store cannot be written.
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
        """Return all repositories, by name, whether they hold packages or not."""
        folder = self.path / "repos"
        with as_hub_error(self.spec):
            names = sorted(entry.name for entry in folder.iterdir() if is_name(entry.name))
        there = [Repository(folder / name, self.blobs, self.lock) for name in names]
        return [repository for repository in there if repository.exists]

    def repository(self, name: str) -> Repository:
        """Return the repository with a name.

        Raises:
            ModelNotFound: If it does not exist.
        """
        if is_name(name):
            repository = Repository(self.path / "repos" / name, self.blobs, self.lock)
            if repository.exists:
                return repository
        raise no_such_package(self.spec, name, [each.name for each in self.repositories()])

    def new_repository(self, name: str) -> Repository:
        """Return a repository that need not exist yet.

        Raises:
            InvalidInput: If the name is not valid.
        """
        if not is_name(name):
            raise InvalidInput(
                f"{name[:100]!a} is not a valid model name: use lower-case letters, digits . _ -"
            )
        return Repository(self.path / "repos" / name, self.blobs, self.lock)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock for changes to anything but ``blobs`` and ``incoming``."""
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
        # The manifest does not determine the content of these.
        for file in (*ADVISORY, SIGNATURE):
            entries.pop(file, None)
            if (package.path / file).exists():
                entries[file] = self._add_blob(package.path / file, file, None)
        return entries

    def _add_blob(self, source: Path, file: str, entry: FileEntry | None) -> FileEntry:
        # A blob that went bad on disk is replaced.
        if entry is not None and file_fault(self.blobs.folder, entry.sha256, entry) is None:
            return entry
        limit = entry.size if entry is not None else MAX_ADVISORY_BYTES
        with open_regular(source) as stream, self.blobs.receive(limit) as upload:
            # One byte more than the limit shows that the file grew.
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
    """Whether a file belongs to packages, so publishing one without it deletes the file."""
    if file in (MANIFEST, SIGNATURE):
        return True
    try:
        check_file_name(file)
    except ValueError:
        return False
    return True
