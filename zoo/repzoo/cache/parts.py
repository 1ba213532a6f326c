"""A partly downloaded file and its running hash."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from pathlib import Path
from types import TracebackType

from repzoo.retries import Interrupted

__all__ = ["CHUNK", "Part"]

#: Bytes read at a time; a process that is killed loses no more than this.
CHUNK = 2**20


class Part:
    """The beginning of a file on disk, which grows at its end.

    If an earlier process left a part, it is read once for the hash and then continued.
    """

    def __init__(self, path: Path, size: int, stop: threading.Event) -> None:
        """Open the part, or create it.

        Args:
            path: The file of the part. Symbolic links are refused.
            size: Bytes of the whole file. A part that is longer is discarded.
            stop: Once it is set, reading ends with `Interrupted`.
        """
        self.path = path
        self.length = 0
        self._sha256 = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        try:
            there = os.fstat(self._descriptor)
            if not stat.S_ISREG(there.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", str(path))
            if there.st_size > size:
                os.ftruncate(self._descriptor, 0)
            while piece := os.read(self._descriptor, CHUNK):
                if stop.is_set():
                    raise Interrupted
                self._sha256.update(piece)
                self.length += len(piece)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Part:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def write(self, piece: bytes) -> None:
        """Append to the part. If the disk is full, what was written before stays."""
        self._sha256.update(piece)
        left = memoryview(piece)
        while left:
            written = os.write(self._descriptor, left)
            self.length += written
            left = left[written:]

    def sha256(self) -> str:
        """Return the SHA-256 of the part, in hex."""
        return self._sha256.hexdigest()

    def keep_as(self, path: Path) -> None:
        """Flush the part to disk and rename it to ``path``."""
        os.fsync(self._descriptor)
        self.path.rename(path)
