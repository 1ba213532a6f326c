"""One repository of a store: its commits, its branch ``main``, its tags and its visibility.

    repos/NAME/settings.json        visibility and creation time
    repos/NAME/commits/COMMIT       see `repzoo.store.commits`
    repos/NAME/refs/heads/main      the newest commit; the repository exists once this does
    repos/NAME/refs/tags/TAG        a commit

Readers only ever see complete revisions: every file appears by renaming, blobs before the commit
that needs them, and the commit before the ref.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from repzoo.errors import (
    Conflict,
    EntryNotFound,
    HubError,
    InvalidInput,
    ModelNotFound,
    PackageError,
)
from repzoo.files import fsync_folder, open_regular, write_atomically
from repzoo.packages.package import (
    ADVISORY,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
)
from repzoo.packages.reference import match_revision
from repzoo.store.blobs import Blobs
from repzoo.store.commits import Add, Change, Commit, apply, is_commit
from repzoo.store.guard import as_hub_error

__all__ = ["Files", "Repository", "Settings", "is_tag"]

MAIN = "main"

Files = Mapping[str, FileEntry]

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# These would be mistaken for a commit or a SHA-256.
_DIGITS = re.compile(r"[0-9a-fA-F]{40,}")
_MAX_MESSAGE = 4000
#: Bytes of a commit's JSON: enough for 10,000 files with the longest paths.
_MAX_COMMIT_BYTES = 10_000 * 1024


class Settings(BaseModel):
    """``settings.json`` of a repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: datetime
    #: Whether a server shows it only with a token.
    private: bool


class Repository:
    """One repository. Its methods raise `HubError` if the store cannot be read or written."""

    def __init__(
        self, folder: Path, blobs: Blobs, lock: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.name = folder.name
        self.folder = folder
        self._blobs = blobs
        self._lock = lock
        self._where = f"{self.name} in {folder.parents[1]}"

    @property
    def exists(self) -> bool:
        """Whether the repository exists, and so has a commit."""
        return self._ref(MAIN).is_file()

    @property
    def settings(self) -> Settings:
        """The visibility and the creation time."""
        with as_hub_error(self._where), open_regular(self.folder / "settings.json") as file:
            return Settings.model_validate_json(file.read(2**16))

    def head(self) -> str:
        """Return the newest commit."""
        return self._read_ref(self._ref(MAIN))

    def tags(self) -> dict[str, str]:
        """Return the commit of every tag."""
        folder = self.folder / "refs" / "tags"
        with as_hub_error(self._where):
            names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
        return {name: self._read_ref(folder / name) for name in sorted(names) if is_tag(name)}

    def commit(self, commit: str) -> Commit:
        """Read a commit.

        Raises:
            ModelNotFound: If the commit does not exist.
        """
        path = self.folder / "commits" / commit
        if not is_commit(commit) or not path.is_file():
            raise ModelNotFound(f"{self._where} has no revision {commit!a}")
        with as_hub_error(str(path)):
            return _read_commit(path)

    def history(self, commit: str | None = None) -> Iterator[tuple[str, Commit]]:
        """Yield a commit, by default the newest, and then all its ancestors with their names."""
        name: str | None = commit or self.head()
        while name is not None:
            read = self.commit(name)
            yield name, read
            name = read.parent

    def resolve(self, revision: str | None = None) -> str:
        """Return the commit that a revision means; see `repzoo.hub.Hub.resolve`.

        Raises:
            ModelNotFound: If there is no such revision, or several match.
        """
        if revision is None or revision == MAIN:
            return self.head()
        if is_tag(revision) and self._tag(revision).is_file():
            return self._read_ref(self._tag(revision))
        if is_commit(revision) and (self.folder / "commits" / revision).is_file():
            return revision
        known: dict[str, list[str]] = {}
        for name, commit in self.history():
            known[name] = [name]
            if MANIFEST in commit.files:
                known.setdefault(commit.files[MANIFEST].sha256, []).append(name)
        found = match_revision(revision, known, self._where)
        for name in known[found]:
            if name == found or not self.faults(self.commit(name)):
                return name
        raise ModelNotFound(
            f"{self._where}: files of {found[:12]} were deleted or changed in "
            f"{', '.join(name[:12] for name in known[found])}; publish the package again"
        )

    def faults(self, commit: Commit) -> list[str]:
        """Return how a commit's files differ from its own manifest, if it has one."""
        if MANIFEST not in commit.files:
            return []
        with as_hub_error(self._where), self._blobs.open(commit.files[MANIFEST].sha256) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        try:
            manifest = Manifest.parse(data)
        except PackageError as error:
            return [str(error)]
        return [
            f"{file} {'differs from' if file in commit.files else 'is missing, but in'} {MANIFEST}"
            for file, entry in manifest.files.items()
            if file not in ADVISORY and commit.files.get(file) != entry
        ]

    def open(self, commit: str, path: str) -> BufferedReader:
        """Open a file of a revision.

        Raises:
            EntryNotFound: If the revision does not have the file.
        """
        entry = self.commit(commit).files.get(path)
        if entry is None:
            raise EntryNotFound(f"{self._where} has no file {path!a} in {commit[:12]}")
        with as_hub_error(self._where):
            return self._blobs.open(entry.sha256)

    def create(self, *, private: bool = False) -> bool:
        """Create the repository with an empty first commit. Returns False if it exists."""
        with as_hub_error(self._where), self._lock():
            if self.exists:
                return False
            self._write_settings(private=private)
            first = Commit(parent=None, time=datetime.now(UTC), message="initial commit", files={})
            self._advance(first)
            return True

    def set_private(self, private: bool) -> None:
        """Show the repository only with a token, or to everyone who may see the hub."""
        with as_hub_error(self._where), self._lock():
            self._write_settings(private=private, created=self.settings.created)

    def change(
        self,
        changes: Iterable[Change] | Callable[[Files], Iterable[Change]],
        message: str,
        *,
        parent: str | None = None,
        tag: str | None = None,
        private: bool | None = None,
    ) -> tuple[str, bool]:
        """Make a commit, the only step of writing that other writers have to wait for.

        The repository is created if it does not exist.

        Args:
            changes: Changes to the files of the newest revision, or a function that computes them
                from these files. Blobs of new files must be in the store already.
            message: A description of the change.
            parent: The commit, or its beginning, that must be the newest; None for any.
            tag: A tag for the commit.
            private: The visibility to set; None keeps it, and a new repository is public.

        Returns:
            The commit, and whether it is new. If nothing changes, it is the newest one.

        Raises:
            Conflict: If the newest commit is not ``parent``, or another commit has the tag.
            EntryNotFound: If a file to delete does not exist.
            InvalidInput: If the result is not valid for a repository, or content is missing.
        """
        with as_hub_error(self._where), self._lock():
            head = self.head() if self.exists else None
            if parent is not None and not (head or "").startswith(parent):
                raise Conflict(f"{self._where} is now at {head}, not at the parent commit {parent}")
            before: Files = self.commit(head).files if head is not None else {}
            changes = list(changes(before) if callable(changes) else changes)
            files = apply(before, changes)
            for change in changes:
                if isinstance(change, Add) and not self._blobs.has(change.entry):
                    raise InvalidInput(f"the content of {change.path!a} has not been uploaded")
            if head is not None and files == before:
                if tag is not None:
                    self._write_tag(tag, head)
                if private is not None and private != self.settings.private:
                    self._write_settings(private=private, created=self.settings.created)
                return head, False

            if tag is not None:
                self._check_tag(tag, None)
            if head is None:
                self._write_settings(private=bool(private))
            elif private is not None and private != self.settings.private:
                self._write_settings(private=private, created=self.settings.created)
            fsync_folder(self._blobs.folder)
            message = message[:_MAX_MESSAGE]
            commit = Commit(parent=head, time=datetime.now(UTC), message=message, files=files)
            name = self._advance(commit)
            if tag is not None:
                self._write_tag(tag, name)
            return name, True

    def create_tag(self, tag: str, commit: str) -> None:
        """Give a commit a permanent name.

        Raises:
            Conflict: If another commit has the tag.
            InvalidInput: If the name is not valid for a tag.
            ModelNotFound: If the commit does not exist.
        """
        self.commit(commit)
        with as_hub_error(self._where), self._lock():
            self._write_tag(tag, commit)

    def delete_tag(self, tag: str) -> None:
        """Delete a tag.

        Raises:
            ModelNotFound: If the tag does not exist.
        """
        with as_hub_error(self._where), self._lock():
            if not is_tag(tag) or not self._tag(tag).is_file():
                raise ModelNotFound(f"{self._where} has no tag {tag!a}")
            self._tag(tag).unlink()
            fsync_folder(self._tag(tag).parent)

    def check_tag(self, tag: str) -> None:
        """Fail as `create_tag` would for a new commit."""
        with as_hub_error(self._where):
            self._check_tag(tag, None)

    def _check_tag(self, tag: str, commit: str | None) -> bool:
        """Whether that commit already has the tag."""
        if not is_tag(tag):
            raise InvalidInput(f"{tag!a} is not a valid tag: use 1 to 128 of A-Z a-z 0-9 . _ -")
        if not self._tag(tag).is_file():
            return False
        taken = self._read_ref(self._tag(tag))
        if taken != commit:
            raise Conflict(f"{self._where} already has the tag {tag} on {taken}: tags do not move")
        return True

    def _write_tag(self, tag: str, commit: str) -> None:
        if not self._check_tag(tag, commit):
            self._tag(tag).parent.mkdir(exist_ok=True)
            fsync_folder(self._tag(tag).parents[1])
            write_atomically(self._tag(tag), f"{commit}\n".encode())

    def _advance(self, commit: Commit) -> str:
        commits = self.folder / "commits"
        name, data = commit.encode()
        if not self._ref(MAIN).parent.is_dir():
            commits.mkdir(parents=True, exist_ok=True)
            self._ref(MAIN).parent.mkdir(parents=True, exist_ok=True)
            for folder in (self._ref(MAIN).parents[1], self.folder, self.folder.parent):
                fsync_folder(folder)
        write_atomically(commits / name, data)
        write_atomically(self._ref(MAIN), f"{name}\n".encode())
        return name

    def _write_settings(self, *, private: bool, created: datetime | None = None) -> None:
        self.folder.mkdir(exist_ok=True)
        settings = Settings(created=created or datetime.now(UTC), private=private)
        data = settings.model_dump_json().encode() + b"\n"
        write_atomically(self.folder / "settings.json", data)

    def _ref(self, branch: str) -> Path:
        return self.folder / "refs" / "heads" / branch

    def _tag(self, tag: str) -> Path:
        return self.folder / "refs" / "tags" / tag

    def _read_ref(self, path: Path) -> str:
        with as_hub_error(str(path)), open_regular(path) as file:
            text = file.read(100).decode("ascii").rstrip("\n")
        if not is_commit(text):
            raise HubError(f"{path} does not contain a commit")
        return text


def is_tag(text: str) -> bool:
    """Whether a text is a valid tag, and so is safe as a file name."""
    taken = text in (MAIN, "HEAD") or _DIGITS.fullmatch(text) is not None
    return _TAG.fullmatch(text) is not None and not taken


@lru_cache(maxsize=1024)
def _read_commit(path: Path) -> Commit:
    # Commits never change, so they can be cached.
    with open_regular(path) as file:
        return Commit.decode(path.name, file.read(_MAX_COMMIT_BYTES + 1))
