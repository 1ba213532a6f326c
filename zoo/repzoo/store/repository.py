"""One repository of a store: its commits, its branch ``main``, its tags, and who may see it.

    repos/NAME/settings.json        who may see it, since when it is there
    repos/NAME/commits/COMMIT       see `repzoo.store.commits`
    repos/NAME/refs/heads/main      the newest commit; the repository is there once this is
    repos/NAME/refs/tags/TAG        a commit

A reader finds only complete revisions, because each of these appears by renaming, the blobs before
the commit that needs them, and the commit before the ref.
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

from repzoo.errors import Conflict, EntryNotFound, HubError, InvalidInput, ModelNotFound
from repzoo.files import fsync_folder, open_regular, write_atomically
from repzoo.packages.package import MANIFEST, FileEntry
from repzoo.packages.reference import match_revision
from repzoo.store.blobs import Blobs
from repzoo.store.commits import Add, Change, Commit, apply, is_commit
from repzoo.store.guard import as_hub_error

__all__ = ["Files", "Repository", "Settings", "is_tag"]

MAIN = "main"

Files = Mapping[str, FileEntry]

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# These would be taken for a commit or a sha256.
_DIGITS = re.compile(r"[0-9a-fA-F]{40,}")
_MAX_MESSAGE = 4000
#: bytes of a commit's JSON: 10,000 files with paths of the greatest length.
_MAX_COMMIT_BYTES = 10_000 * 1024


class Settings(BaseModel):
    """``settings.json`` of a repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: datetime
    #: whether a server shows it only to those who have a token.
    private: bool


class Repository:
    """One repository. All methods raise `HubError` if the store cannot be read or written."""

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
        """Whether it is there, and so has a commit."""
        return self._ref(MAIN).is_file()

    @property
    def settings(self) -> Settings:
        """Who may see it."""
        with as_hub_error(self._where), open_regular(self.folder / "settings.json") as file:
            return Settings.model_validate_json(file.read(2**16))

    def head(self) -> str:
        """The newest commit."""
        return self._read_ref(self._ref(MAIN))

    def tags(self) -> dict[str, str]:
        """The commit of every tag."""
        folder = self.folder / "refs" / "tags"
        with as_hub_error(self._where):
            names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
        return {name: self._read_ref(folder / name) for name in sorted(names) if is_tag(name)}

    def commit(self, commit: str) -> Commit:
        """Read a commit.

        Raises:
            ModelNotFound: if it is not there.
        """
        path = self.folder / "commits" / commit
        if not is_commit(commit) or not path.is_file():
            raise ModelNotFound(f"{self._where} has no revision {commit!a}")
        with as_hub_error(str(path)):
            return _read_commit(path)

    def history(self, commit: str | None = None) -> Iterator[tuple[str, Commit]]:
        """A commit, the newest if None, and all before it, each after the one that follows it."""
        name: str | None = commit or self.head()
        while name is not None:
            read = self.commit(name)
            yield name, read
            name = read.parent

    def resolve(self, revision: str | None = None) -> str:
        """The commit that a revision means, see `repzoo.hub.Hub.resolve`.

        Raises:
            ModelNotFound: if it means none, or could mean several.
        """
        if revision is None or revision == MAIN:
            return self.head()
        if is_tag(revision) and self._tag(revision).is_file():
            return self._read_ref(self._tag(revision))
        if is_commit(revision) and (self.folder / "commits" / revision).is_file():
            return revision
        known: dict[str, str] = {}
        for name, commit in self.history():
            known[name] = name
            if MANIFEST in commit.files:
                # The newest commit with this manifest.
                known.setdefault(commit.files[MANIFEST].sha256, name)
        return known[match_revision(revision, known, self._where)]

    def open(self, commit: str, path: str) -> BufferedReader:
        """The bytes of a file of a revision.

        Raises:
            EntryNotFound: if the revision has no such file.
        """
        entry = self.commit(commit).files.get(path)
        if entry is None:
            raise EntryNotFound(f"{self._where} has no file {path!a} in {commit[:12]}")
        with as_hub_error(self._where):
            return self._blobs.open(entry.sha256)

    def create(self, *, private: bool = False) -> bool:
        """Make the repository, with a first commit that holds nothing; False if it is there."""
        with as_hub_error(self._where), self._lock():
            if self.exists:
                return False
            self._write_settings(private=private)
            first = Commit(parent=None, time=datetime.now(UTC), message="initial commit", files={})
            self._advance(first)
            return True

    def set_private(self, private: bool) -> None:
        """Show it to those who have a token only, or to all who may see the hub."""
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
        """Make a commit, the only step of writing that others have to wait for.

        The repository is made if it is not there.

        Args:
            changes: to the files of the newest revision, or what gives the changes for these;
                blobs of new files are in the store already.
            message: why.
            parent: the commit, or what it starts with, that must be the newest; None: any.
            tag: a name for the new commit.
            private: makes the repository private, or not; None: as it is, or public if it is new.

        Returns:
            The commit, and whether it is a new one: it is not if nothing would change.

        Raises:
            Conflict: if the newest commit is not ``parent``, or the tag is taken.
            EntryNotFound: if something to delete is not there.
            InvalidInput: if the result is not what a repository may hold, or content is missing.
        """
        with as_hub_error(self._where), self._lock():
            head = self.head() if self.exists else None
            if parent is not None and not (head or "").startswith(parent):
                raise Conflict(
                    f"{self._where} is at {head} by now, not at the parent commit {parent}"
                )
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
        """Name a commit; it has that name from now on.

        Raises:
            Conflict: if another commit has it.
            InvalidInput: if it cannot be a tag's name.
            ModelNotFound: if there is no such commit.
        """
        self.commit(commit)
        with as_hub_error(self._where), self._lock():
            self._write_tag(tag, commit)

    def delete_tag(self, tag: str) -> None:
        """Take a name away.

        Raises:
            ModelNotFound: if there is no such tag.
        """
        with as_hub_error(self._where), self._lock():
            if not is_tag(tag) or not self._tag(tag).is_file():
                raise ModelNotFound(f"{self._where} has no tag {tag!a}")
            self._tag(tag).unlink()
            fsync_folder(self._tag(tag).parent)

    def check_tag(self, tag: str) -> None:
        """Fail as `create_tag` would for a commit that is yet to be made."""
        with as_hub_error(self._where):
            self._check_tag(tag, None)

    def _check_tag(self, tag: str, commit: str | None) -> bool:
        """Whether the tag is there already, on that very commit."""
        if not is_tag(tag):
            raise InvalidInput(f"{tag!a} cannot be a tag: 1 to 128 of A-Z a-z 0-9 . _ -")
        if not self._tag(tag).is_file():
            return False
        taken = self._read_ref(self._tag(tag))
        if taken != commit:
            raise Conflict(f"{self._where} has a tag {tag} already, on {taken}: tags do not move")
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
            raise HubError(f"{path} does not hold a commit")
        return text


def is_tag(text: str) -> bool:
    """Whether ``text`` can be a tag's name, and so is safe as a file name."""
    taken = text in (MAIN, "HEAD") or _DIGITS.fullmatch(text) is not None
    return _TAG.fullmatch(text) is not None and not taken


@lru_cache(maxsize=1024)
def _read_commit(path: Path) -> Commit:
    # A commit never changes, so what was read once stays right.
    with open_regular(path) as file:
        return Commit.decode(path.name, file.read(_MAX_COMMIT_BYTES + 1))
