"""Files where they are: on this machine, or in an object store through fsspec."""

from __future__ import annotations

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
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtra("bulk embedding", "batch", error) from error

__all__ = ["Place", "require_utf8"]


class Place:
    """A path of a file system: a local one, or a URL such as ``s3://bucket/folder``.

    Attributes:
        fs: the file system.
        path: the path in it.
    """

    def __init__(self, fs: Any, path: str) -> None:
        self.fs = fs
        self.path = path

    @classmethod
    def of(cls, url: str) -> Place:
        """The place of a URL or a path.

        Raises:
            InvalidInput: if there is no such kind of URL, what it takes is not installed, or it is
                a path that is not UTF-8.
        """
        try:
            # What is there may change between two runs in one process.
            fs, path = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise InvalidInput(f"{url}: {error}") from error
        require_utf8(path)
        return cls(fs, path.rstrip("/") or path)

    def __str__(self) -> str:
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def local(self) -> Path:
        """The path of this machine that it is."""
        return Path(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    def beside(self, suffix: str) -> Place:
        """The same with something at the end."""
        return Place(self.fs, self.path + suffix)

    def __truediv__(self, name: str) -> Place:
        return Place(self.fs, f"{self.path}/{name}")

    def exists(self) -> bool:
        """Whether there is anything."""
        with self._telling():
            return bool(self.fs.exists(self.path))

    def is_file(self) -> bool:
        """Whether it is a file."""
        with self._telling():
            return bool(self.fs.isfile(self.path))

    def info(self) -> dict[str, Any]:
        """What the file system says of it: ``name``, ``type``, ``size``, ..."""
        with self._telling():
            found: dict[str, Any] = self.fs.info(self.path)
            return found

    def entries(self) -> list[dict[str, Any]]:
        """The same of all in the folder, by name."""
        with self._telling():
            return sorted(self.fs.ls(self.path, detail=True), key=lambda info: info["name"])

    def matching(self) -> list[dict[str, Any]]:
        """The same of all that the path, a pattern, fits."""
        with self._telling():
            found = self.fs.glob(self.path, detail=True).values()
            return sorted(found, key=lambda info: info["name"])

    def names(self) -> set[str]:
        """The names in the folder; none if there is no folder."""
        try:
            found = self.entries()
        except FileNotFoundError:
            return set()
        return {str(info["name"]).rstrip("/").rsplit("/", 1)[-1] for info in found}

    def open(self) -> BinaryIO:
        """Open the file for reading."""
        with self._telling():
            stream: BinaryIO = self.fs.open(self.path, "rb")
            return stream

    def buffered(self) -> BinaryIO:
        """The file for readers that jump about in it: a remote one is fetched whole."""
        return self.open() if self.is_local else io.BytesIO(self.read())

    def read(self) -> bytes:
        """The file's bytes."""
        with self._telling():
            data: bytes = self.fs.cat_file(self.path)
            return data

    def read_many(self, paths: list[str]) -> dict[str, bytes | Exception]:
        """The bytes of files below it, by path, or what came in between."""
        with self._telling():
            whole = {f"{self.path}/{path}": path for path in paths}
            found = self.fs.cat(list(whole), on_error="return")
            return {whole[path]: data for path, data in found.items()}

    def write(self, data: bytes) -> None:
        """Make the file appear, or change, whole or not at all; it survives a crash."""
        if self.is_local:
            self.local.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.local, data)
            return
        with self._telling():
            self.fs.pipe_file(self.path, data)  # an object appears when it is complete

    def take(self, made: Path) -> None:
        """The same for a finished file of this machine, which is moved here."""
        if self.is_local:
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(self.local)
            fsync_folder(self.local.parent)
            return
        with self._telling():
            self.fs.put_file(str(made), self.path)

    def remove(self) -> None:
        """Remove the file or folder, if there is one."""
        if self.exists():
            with self._telling():
                self.fs.rm(self.path, recursive=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Have what comes from a store's own library say where it comes from."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise HubError(f"{self}: {error}") from error


def require_utf8(path: str) -> None:
    """Raise InvalidInput if a path is not UTF-8, as ids and all other texts in parquet are."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{path}: its name is not UTF-8; give it another") from None
