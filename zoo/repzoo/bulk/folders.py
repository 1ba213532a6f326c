"""Walking a folder, with the same rules for `zoo embed`, `zoo index` and `zoo train`.

- Hidden files and folders are skipped, see `repzoo.bulk.formats.is_hidden`.
- Symbolic links are followed. A folder that can be reached in several ways is read once, under the
  name that comes first; this also ends loops.
- Entries that cannot be read are reported, and do not end the walk.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from repzoo.bulk.formats import is_hidden

__all__ = ["FolderEntry", "printable_path", "walk"]


class FolderEntry(NamedTuple):
    """A file below a folder, or a subfolder that cannot be read."""

    #: The path below the folder, with slashes. It ends with a slash if it is a subfolder.
    path: str
    #: Size in bytes; 0 if the entry cannot be read.
    size: int
    #: Time of the last change, in nanoseconds; 0 if the entry cannot be read.
    mtime_ns: int
    #: Why the entry cannot be read, or None.
    error: OSError | None = None

    @classmethod
    def of(cls, root: Path, path: str) -> FolderEntry:
        """Return the entry of one path. The path of a folder gets a slash at the end."""
        try:
            status = (root / path).stat()
        except OSError as error:  # for example the target of a link does not exist
            return cls(path, 0, 0, error)
        if stat.S_ISDIR(status.st_mode):
            return cls(f"{path}/", 0, 0)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could block forever
            return cls(path, 0, 0, OSError(errno.EINVAL, "not a regular file"))
        return cls(path, status.st_size, status.st_mtime_ns)

    @property
    def is_gone(self) -> bool:
        """Whether there is nothing to read: the target of a link, for example, does not exist."""
        gone = (errno.ENOENT, errno.ELOOP, errno.EINVAL)
        return self.error is not None and self.error.errno in gone


def walk(root: Path) -> Iterator[FolderEntry]:
    """Yield all files below a folder, in an order that depends on their names only.

    Raises:
        OSError: If ``root`` itself cannot be read.
    """
    seen = {_identity(root)}
    # The names still to come in ``root`` and in each subfolder on the way down.
    waiting = [("", _names(root))]
    while waiting:
        below, names = waiting[-1]
        name = next(names, None)
        if name is None:
            waiting.pop()
        elif not is_hidden(name):
            entry = FolderEntry.of(root, f"{below}{name}")
            if not entry.path.endswith("/"):
                yield entry
                continue
            try:
                identity = _identity(root / entry.path)
                if identity not in seen:
                    waiting.append((entry.path, _names(root / entry.path)))
                    seen.add(identity)
            except OSError as error:
                yield entry._replace(error=error)


def printable_path(path: str) -> str:
    r"""Return a path as UTF-8 text, in which a byte that is not UTF-8 is written as ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _names(folder: Path) -> Iterator[str]:
    return iter(sorted(path.name for path in folder.iterdir()))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
