"""Files on this machine, or in an object store through fsspec."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from repzoo.errors import HubError, InvalidInput, MissingExtra
from repzoo.files import fsync_folder, write_atomically

try:
    import fsspec  # type: ignore[import-untyped]
    from fsspec.implementations.local import (  # type: ignore[import-untyped]
        LocalFileSystem,
        make_path_posix,
    )
except ImportError as error:
    raise MissingExtra("bulk embedding", "batch", error) from error

__all__ = ["Place", "require_utf8"]


class Place:
    """A path in a file system: a local path, or a URL such as ``s3://bucket/folder``.

    A path is never a pattern, except in `matching`.

    Attributes:
        fs: The fsspec file system.
        path: The path in it.
    """

    def __init__(self, fs: Any, path: str, chain: str = "") -> None:
        self.fs = fs
        self.path = path
        #: The URL of a chain of file systems, with ``{}`` for the path: "zip://{}::photos.zip".
        self._chain = chain

    @classmethod
    def of(cls, url: str) -> Place:
        """Return the place of a path or a URL. A local path that exists is never a URL.

        Raises:
            InvalidInput: If the protocol is unknown or its library is not installed, or the path is
                not UTF-8.
        """
        require_utf8(url)
        if os.path.lexists(url):
            return cls(LocalFileSystem(), make_path_posix(str(Path(url).absolute())))
        try:
            # Without a cache of listings: files may change between two runs in one process.
            fs, path = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise InvalidInput(f"{url}: {error}") from error
        except FileNotFoundError as error:  # of an archive
            raise InvalidInput(f"{url} does not exist") from error
        return cls(fs, path.rstrip("/") or path, _chain(url))

    def __str__(self) -> str:
        if self.is_local:
            return self.path
        return self._chain.replace("{}", self.path) or str(self.fs.unstrip_protocol(self.path))

    @property
    def is_local(self) -> bool:
        """Whether it is a path on this machine."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def local(self) -> Path:
        """The path on this machine."""
        return Path(self.path)

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rsplit("/", 1)[-1]

    def at(self, path: str) -> Place:
        """Return another path in the same file system."""
        return Place(self.fs, path, self._chain)

    def __truediv__(self, name: str) -> Place:
        return self.at(f"{self.path}/{name}" if self.path else name)

    def exists(self) -> bool:
        """Return whether there is a file or folder."""
        with self._naming_errors():
            return bool(self.fs.exists(self.path))

    def is_file(self) -> bool:
        """Return whether it is a file."""
        with self._naming_errors():
            return bool(self.fs.isfile(self.path))

    def info(self) -> dict[str, Any]:
        """Return what the file system knows about it: ``name``, ``type``, ``size``, ..."""
        with self._naming_errors():
            found: dict[str, Any] = self.fs.info(self.path)
            return found

    def entries(self) -> list[dict[str, Any]]:
        """Return `info` of everything in the folder, sorted by name."""
        with self._naming_errors():
            return sorted(self.fs.ls(self.path, detail=True), key=lambda info: info["name"])

    def matching(self, pattern: str) -> list[dict[str, Any]]:
        """Return `info` of everything below the place that matches a pattern, sorted by name."""
        with self._naming_errors():
            whole = glob.escape(self.path.rstrip("/")) + "/" if self.path else ""
            found = self.fs.glob(f"{whole}{pattern}", detail=True).values()
            return sorted(found, key=lambda info: info["name"])

    def names(self) -> set[str]:
        """Return the names in the folder; none if it does not exist."""
        try:
            found = self.entries()
        except FileNotFoundError:
            return set()
        return {str(info["name"]).rstrip("/").rsplit("/", 1)[-1] for info in found}

    def open(self) -> BinaryIO:
        """Open the file for reading."""
        with self._naming_errors():
            stream: BinaryIO = self.fs.open(self.path, "rb")
            return stream

    def buffered(self) -> BinaryIO:
        """Open the file for random access; a remote file is downloaded first."""
        return self.open() if self.is_local else io.BytesIO(self.read())

    def read(self) -> bytes:
        """Return the file's content."""
        with self._naming_errors():
            data: bytes = self.fs.cat_file(self.path)
            return data

    def read_many(self, paths: list[str]) -> dict[str, bytes | Exception]:
        """Return the contents of files below the place, or the errors of reading them, by path."""
        whole = [(self / path).path for path in paths]
        with self._naming_errors():
            # Not fs.cat: it treats keys that contain * or [ as patterns.
            found = self.fs.cat_ranges(whole, None, None, on_error="return")
            return dict(zip(paths, found, strict=True))

    def write(self, data: bytes) -> None:
        """Write the file atomically, so that it survives a crash."""
        if self.is_local:
            self.local.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.local, data)
            return
        with self._naming_errors():
            self.fs.pipe_file(self.path, data)  # an object appears when it is complete

    def take(self, made: Path) -> None:
        """Move a finished local file here, atomically."""
        if self.is_local:
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(self.local)
            fsync_folder(self.local.parent)
            return
        with self._naming_errors():
            self.fs.put_file(str(made), self.path)

    def remove(self) -> None:
        """Remove the file, if it exists. Folders and other files are never removed."""
        if self.is_local:
            self.local.unlink(missing_ok=True)
        elif self.is_file():
            with self._naming_errors():
                self.fs.rm_file(self.path)  # not fs.rm, which treats the path as a pattern

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """Add the place to errors that the library of an object store raises."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise HubError(f"{self}: {error}") from error


def require_utf8(path: str) -> None:
    """Raise InvalidInput if a path is not UTF-8, because text in Parquet files must be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{path}: its name is not UTF-8; rename it") from None


def _chain(url: str) -> str:
    """Return a chained URL with ``{}`` for its path, or "" if there is no chain."""
    if "::" not in url:
        return ""
    parts = url.split("::")
    number = next((n for n, part in enumerate(parts) if "://" in part), 0)
    parts[number] = f"{parts[number].partition('://')[0]}://{{}}"
    if "://" not in parts[-1]:  # a local archive; workers may run in other folders
        parts[-1] = str(Path(parts[-1]).absolute())
    return "::".join(parts)
