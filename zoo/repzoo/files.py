"""Reading and writing files so that neither a link nor a crash leads elsewhere."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase, BufferedReader, BufferedWriter
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = [
    "copy_checked",
    "create",
    "fsync_folder",
    "is_no_space",
    "locked",
    "no_space_at",
    "open_regular",
    "temporary_folder",
    "write_atomically",
]

_log = logging.getLogger("repzoo")
_CHUNK = 2**20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; refuse a link, a folder, a pipe or a device.

    Raises:
        OSError: if it cannot be opened or is something else.
    """
    # O_NONBLOCK: opening a pipe would wait for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def create(path: Path, mode: int = 0o666) -> BufferedWriter:
    """Create a file that does not exist yet, with the permissions ``mode`` less the umask."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, mode), "wb")


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace a file's content, so that even after a crash it is the whole old or new one."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    with no_space_at(path):
        try:
            with create(temporary, mode) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        fsync_folder(path.parent)


@contextmanager
def no_space_at(path: Path) -> Iterator[None]:
    """Have the error of a full disk, which knows of no file, name what is written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and is_no_space(error):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def is_no_space(error: OSError) -> bool:
    """Whether an error means that a disk, a quota or a limit is full."""
    return error.errno in _NO_SPACE


def fsync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Give a new folder below ``parent``, removed at the end if it is still there."""
    # Not tempfile's, which are private to the user: what is made in it may be for others too.
    path = parent / f"{prefix}{secrets.token_hex(8)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def copy_checked(
    source: BufferedIOBase,
    path: Path,
    size: int,
    sha256: str,
    progress: Callable[[int], object] | None = None,
) -> str | None:
    """Copy a stream to a new file on disk, and say what is wrong with it, or None.

    Args:
        source: read until its end, or one byte more than it should have.
        path: the file to create; it stays, whatever is wrong with its content.
        size: how many bytes there should be.
        sha256: what they should hash to, in hex.
        progress: called with the number of bytes of each piece.
    """
    digest = hashlib.sha256()
    copied = 0
    with create(path) as file:
        while copied <= size and (piece := source.read(min(_CHUNK, size + 1 - copied))):
            file.write(piece)
            digest.update(piece)
            copied += len(piece)
            if progress is not None:
                progress(len(piece))
        file.flush()
        os.fsync(file.fileno())
    if copied != size:
        return f"has {'more' if copied > size else copied} bytes, not {size}"
    if digest.hexdigest() != sha256:
        return "does not have the manifest's sha256"
    return None


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path``, which a process that dies lets go of.

    Args:
        path: the lock file; it is made and stays.
        what: what the lock is for, said to a user who has to wait for it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        _log.warning("waiting for another process: %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
