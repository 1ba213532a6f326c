"""Read and write files safely: links cannot redirect access, and a crash leaves no partial file."""

from __future__ import annotations

import errno
import fcntl
import glob
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
    "size_if_there",
    "temporary_folder",
    "write_atomically",
]

_log = logging.getLogger("repzoo")
_CHUNK = 2**20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; refuse links, folders, pipes and devices.

    The links of a Hugging Face cache, ``REPOSITORY/snapshots/COMMIT/FILE``, are followed if they
    lead to ``REPOSITORY/blobs``.

    Raises:
        OSError: If the file cannot be opened or is not a regular file.
    """
    # O_NONBLOCK: opening a pipe would otherwise wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        blob = _snapshot_blob(path)
        if blob is None:
            reason = "it is a symbolic link that leads outside a Hugging Face cache's own blobs"
            raise OSError(errno.ELOOP, reason, str(path)) from None
        descriptor = os.open(blob, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _snapshot_blob(link: Path) -> Path | None:
    """Return the blob behind a link in a snapshot, or None if it is another kind of link."""
    folder, target = Path(os.path.realpath(link.parent)), Path(os.path.realpath(link))
    for snapshot in (folder, folder.parent):  # a package has folders of one level
        if snapshot.parent.name == "snapshots":
            return target if target.parent == snapshot.parents[1] / "blobs" else None
    return None


def create(path: Path, mode: int = 0o666) -> BufferedWriter:
    """Create a file that does not exist yet, with the permissions ``mode`` less the umask."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, mode), "wb")


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace a file's content atomically: a crash leaves either the old or the new content."""
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
    """Add the path to the error of a full disk, which does not name a file itself."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and is_no_space(error):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def is_no_space(error: OSError) -> bool:
    """Whether an error means that a disk, quota or size limit is full."""
    return error.errno in _NO_SPACE


def size_if_there(path: Path) -> int:
    """Return the size of a file in bytes, or 0 if it does not exist."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def fsync_folder(path: Path) -> None:
    """Flush a folder to disk, so that new names in it survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Create a folder below ``parent`` and remove it at the end if it still exists.

    Folders of the same prefix that killed processes have left are removed first.
    """
    for left in parent.glob(f"{glob.escape(prefix)}{'[0-9a-f]' * 16}"):
        with _locked_folder(left) as alone:
            if alone:
                shutil.rmtree(left, ignore_errors=True)
    # tempfile would make it private to the user; what is built here may be shared.
    while True:
        path = parent / f"{prefix}{secrets.token_hex(8)}"
        path.mkdir()
        with _locked_folder(path, wait=True):
            if not path.exists():  # another process removed it before it was locked
                continue
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)
            return


@contextmanager
def _locked_folder(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a folder until the process ends; yield whether that worked.

    File systems without such locks, such as NFS, refuse. Unless ``wait`` is true, so does a lock
    that another process has.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def copy_checked(
    source: BufferedIOBase,
    path: Path,
    size: int,
    sha256: str,
    progress: Callable[[int], object] | None = None,
) -> str | None:
    """Copy a stream to a new file on disk and check it.

    Args:
        source: The stream. At most one byte more than ``size`` is read.
        path: The file to create. It stays even if its content is wrong.
        size: The expected number of bytes.
        sha256: The expected SHA-256, in hex.
        progress: Called with the number of bytes of each piece.

    Returns:
        What is wrong with the content, or None.
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
def locked(path: Path, what: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file, which is released if the process dies.

    Args:
        path: The lock file. It is created, with its folder, and stays.
        what: What the other process is doing, for a user who has to wait.
        wait: Whether to wait for another process.

    Raises:
        TimeoutError: If another process holds the lock and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2 if wait else 0)
    except Timeout:
        if not wait:
            raise
        _log.warning("waiting for another process: %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
