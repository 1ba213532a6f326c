"""The files of a store, each under the sha256 of its bytes, and how a new one gets in.

blobs/sha256/DIGEST     complete and checked; they appear by renaming
incoming/NAME           what a writer has received so far, locked by it as long as it lives
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
    """The content of a store, by sha256. Methods raise OSError if the disk fails."""

    def __init__(self, store: Path) -> None:
        self.folder = store / "blobs" / "sha256"
        self.incoming = store / "incoming"

    def size(self, digest: str) -> int | None:
        """How many bytes a blob has; None if it is not there."""
        if not is_digest(digest):
            return None
        try:
            return (self.folder / digest).stat().st_size
        except FileNotFoundError:
            return None

    def total(self) -> int:
        """Bytes of all blobs."""
        with os.scandir(self.folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)

    def has(self, entry: FileEntry) -> bool:
        """Whether a blob is there with the size that it should have."""
        return self.size(entry.sha256) == entry.size

    def renew(self, entry: FileEntry) -> bool:
        """The same as `has`; whoever prunes takes the blob for a new one from now on."""
        if not self.has(entry):
            return False
        with suppress(OSError):
            os.utime(self.folder / entry.sha256)
        return True

    def open(self, digest: str) -> BufferedReader:
        """The bytes of a blob. They stay readable while the file is open, whatever happens."""
        return open_regular(self.folder / digest)

    def receive(self, limit: int) -> Upload:
        """A new file to write at most ``limit`` bytes to; use it in a ``with``."""
        return Upload(self, limit)

    def leftovers(self) -> list[Path]:
        """What dead writers left in ``incoming``; what a live one is writing is not among it."""
        return [path for path in self.incoming.iterdir() if not _is_being_written(path)]

    def clear_leftovers(self) -> list[Path]:
        """Remove what dead writers left; give what was removed."""
        removed = []
        for path in self.incoming.iterdir():
            if not _is_being_written(path, remove=True):
                removed.append(path)
        return removed


class Upload:
    """A blob on its way in. What was not `keep`-ed is gone at the end of the ``with``.

    size and sha256 are counted while the bytes arrive, so that keeping it is one rename.
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
            # Someone who cleans up may have been faster than the lock.
            if os.fstat(self._file.fileno()).st_nlink == 1:
                return self
            self._file.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Gone first: once it is closed, and so unlocked, others may take it for a leftover.
        with suppress(FileNotFoundError):
            self._path.unlink()
        with suppress(OSError):  # a full disk has been reported by whoever wrote
            self._file.close()

    def write(self, piece: bytes | bytearray) -> None:
        """Append a piece.

        Raises:
            UploadTooLarge: if it is more than there may be.
        """
        self.size += len(piece)
        if self.size > self._limit:
            raise UploadTooLarge(f"more than the {self._limit} bytes that there may be")
        self._file.write(piece)
        self._digest.update(piece)

    def keep(self, expected: FileEntry | None = None) -> FileEntry:
        """Make the blob visible, on disk for good.

        Args:
            expected: what its size and sha256 should be; None: whatever they are.

        Raises:
            IntegrityError: if they are something else.
        """
        entry = FileEntry(size=self.size, sha256=self._digest.hexdigest())
        if expected is not None and entry != expected:
            raise IntegrityError(
                f"{entry.size} bytes of sha256 {entry.sha256} came,"
                f" not {expected.size} of {expected.sha256}"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        os.fchmod(self._file.fileno(), 0o444)
        # A blob that is there already is replaced: if it went bad on the disk, this mends it.
        self._path.replace(self._blobs.folder / entry.sha256)
        return entry


def _is_being_written(path: Path, *, remove: bool = False) -> bool:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return True  # it was, a moment ago
    except OSError:
        # Nothing that a writer makes.
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
