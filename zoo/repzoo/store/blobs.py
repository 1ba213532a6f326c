"""The contents of a store's files, each stored under its SHA-256, and how new ones are received.

blobs/sha256/DIGEST     complete and checked; they appear by renaming
incoming/NAME           what a writer has received so far, locked while the writer lives
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

from repzoo.errors import IntegrityError, UploadTooLarge
from repzoo.files import create, open_regular
from repzoo.packages.package import FileEntry
from repzoo.packages.reference import is_digest

__all__ = ["Blobs", "Upload"]


class Blobs:
    """The contents of a store's files by SHA-256. Methods raise OSError if the disk fails."""

    def __init__(self, store: Path) -> None:
        self.folder = store / "blobs" / "sha256"
        self.incoming = store / "incoming"

    def size(self, digest: str) -> int | None:
        """Return the size of a blob in bytes, or None if it does not exist."""
        if not is_digest(digest):
            return None
        try:
            return (self.folder / digest).stat().st_size
        except FileNotFoundError:
            return None

    def total(self) -> int:
        """Return the size of all blobs in bytes."""
        with os.scandir(self.folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)

    def has(self, entry: FileEntry) -> bool:
        """Whether a blob exists and has the right size."""
        return self.size(entry.sha256) == entry.size

    def renew(self, entry: FileEntry) -> bool:
        """Do the same as `has`, and protect the blob from pruning as if it were new."""
        if not self.has(entry):
            return False
        with suppress(OSError):
            os.utime(self.folder / entry.sha256)
        return True

    def open(self, digest: str) -> BufferedReader:
        """Open a blob. It stays readable while it is open, even if it is removed."""
        return open_regular(self.folder / digest)

    def receive(self, limit: int) -> Upload:
        """Return a new file for at most ``limit`` bytes, to be used in a ``with``."""
        return Upload(self, limit)

    def leftovers(self) -> list[Path]:
        """Return what dead writers left in ``incoming``, without the files of live ones."""
        return [path for path in self.incoming.iterdir() if not _is_being_written(path)]

    def clear_leftovers(self) -> list[Path]:
        """Remove what dead writers left, and return the removed paths."""
        removed = []
        for path in self.incoming.iterdir():
            if not _is_being_written(path, remove=True):
                removed.append(path)
        return removed


class Upload:
    """A blob that is being received. Without `keep` it is removed at the end of the ``with``.

    Its size and SHA-256 are computed while the bytes arrive, so `keep` needs only a rename.
    """

    def __init__(self, blobs: Blobs, limit: int) -> None:
        self._blobs = blobs
        self._limit = limit
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        while True:
            self._path = self._blobs.incoming / secrets.token_hex(16)
            self._file = create(self._path)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            # A cleanup may have removed the file before it was locked.
            if os.fstat(self._file.fileno()).st_nlink == 1:
                return self
            self._file.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Unlink first: once it is closed, and so unlocked, others may take it for a leftover.
        with suppress(FileNotFoundError):
            self._path.unlink()
        with suppress(OSError):  # write() has reported a full disk
            self._file.close()

    def write(self, piece: bytes | bytearray) -> None:
        """Append a piece.

        Raises:
            UploadTooLarge: If the limit is exceeded.
        """
        self.size += len(piece)
        if self.size > self._limit:
            raise UploadTooLarge(
                f"the file is larger than the announced or allowed {self._limit} bytes"
            )
        self._file.write(piece)
        self._digest.update(piece)

    def keep(self, expected: FileEntry | None = None) -> FileEntry:
        """Flush the blob to disk and make it visible.

        Args:
            expected: The expected size and SHA-256, or None to accept any.

        Raises:
            IntegrityError: If they differ.
        """
        entry = FileEntry(size=self.size, sha256=self._digest.hexdigest())
        if expected is not None and entry != expected:
            raise IntegrityError(
                f"received {entry.size} bytes with sha256 {entry.sha256}, expected "
                f"{expected.size} bytes with {expected.sha256}"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        os.fchmod(self._file.fileno(), 0o444)
        # Replacing an existing blob repairs one that went bad on disk.
        self._path.replace(self._blobs.folder / entry.sha256)
        return entry


def _is_being_written(path: Path, *, remove: bool = False) -> bool:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return True  # its writer finished a moment ago
    except OSError:
        # No writer creates this.
        if remove and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif remove:
            path.unlink()
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        if remove:
            with suppress(FileNotFoundError):
                path.unlink()
    return False
