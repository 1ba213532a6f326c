"""The files of a source, listed once, and the images of each part.

The listing is a Parquet file in the folder of the parts. With it, memory does not grow with the
source, every worker sees the same order, and changes to the source are detected.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import has_magic  # type: ignore[import-untyped]

from repzoo.bulk.folders import FolderEntry, printable_path, walk
from repzoo.bulk.formats import is_hidden, is_image_name
from repzoo.bulk.images_in_parquet import ParquetImages
from repzoo.bulk.places import Place, require_utf8
from repzoo.errors import InvalidInput

__all__ = ["Item", "Listing", "Source"]

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("stamp", pa.string()),
        ("rows", pa.int64()),
        ("error", pa.string()),
    ]
)

#: Rows per row group of a listing.
_GROUP = 8192


class Item(NamedTuple):
    """One image of a source."""

    #: The path below the source; ``FILE:ROW`` for an image in a Parquet file.
    id: str
    #: The encoded file, or its path on this machine.
    data: bytes | str = b""
    #: Why there is no data, or None.
    error: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of a source at the time of listing."""

    #: "images" or "parquet".
    kind: str
    #: Number of images.
    images: int
    #: sha256 of the names, sizes and times (or ETags) of the files, in hex.
    digest: str
    #: Number of other files, which are skipped.
    skipped: int
    #: Total size of the files in bytes.
    size: int
    #: The listing as a Parquet file.
    data: bytes


class _File(NamedTuple):
    path: str  # below the root
    size: int
    stamp: str
    error: str | None = None


class Source:
    """An image, a Parquet file, a folder of either, or a pattern; a local path or a URL.

    A path or a part of one that exists is not a pattern, whatever characters it contains.

    Args:
        url: The path, pattern or URL.

    Raises:
        InvalidInput: If it does not exist, or its protocol is unknown.
    """

    def __init__(self, url: str) -> None:
        place = Place.of(url)
        self._pattern = None
        self._is_file = place.is_file()
        self._root, self._name = place, place.name
        if self._is_file:
            self._root = place.at(posixpath.dirname(place.path))
        elif not place.exists():
            if not has_magic(place.path):
                raise InvalidInput(f"{url} does not exist")
            self._pattern = place.path
            self._root = _fixed_part(place)

    def __str__(self) -> str:
        if self._pattern is not None:
            return str(self._root.at(self._pattern))
        return str(self._root / self._name if self._is_file else self._root)

    def look(self, besides: Place) -> Listing:
        """List the files that the source holds now.

        Args:
            besides: An output, which may be in the source. It and its parts are not listed.

        Raises:
            InvalidInput: If there are no images, or both images and Parquet files.
        """
        kinds: dict[str, str] = {}
        digest, images, skipped, size = hashlib.sha256(), 0, 0, 0
        buffer = io.BytesIO()
        group: list[dict[str, Any]] = []
        with pq.ParquetWriter(buffer, _SCHEMA) as writer:
            for file in self._files():
                kind = self._kind(file.path)
                may_be_output = kind == "parquet" or ".parquet.parts/" in file.path
                if may_be_output and self._is_output(file.path, besides):
                    continue
                if kind is None:
                    skipped += 1
                    continue
                kinds.setdefault(kind, file.path)
                if {"images", "parquet"} <= kinds.keys():
                    raise InvalidInput(
                        f"{self} holds images ({kinds['images']}) and Parquet files "
                        f"({kinds['parquet']}); choose one kind with a pattern, such as "
                        f"'{self._root}/**/*.parquet'"
                    )
                rows = 1
                if kind == "parquet":
                    rows = ParquetImages(self._root / file.path).rows
                line = f"{file.path}\0{file.size}\0{file.stamp}\0{rows}"
                digest.update(
                    f"{line}\0{file.error}\n".encode() if file.error else f"{line}\n".encode()
                )
                images += rows
                size += file.size
                group.append({**file._asdict(), "rows": rows})
                if len(group) == _GROUP:
                    writer.write_table(pa.Table.from_pylist(group, _SCHEMA))
                    group = []
            if group:
                writer.write_table(pa.Table.from_pylist(group, _SCHEMA))
        if not images:
            raise InvalidInput(f"{self} holds no images ({skipped:,} other files)")
        kind = "parquet" if "parquet" in kinds else "images"
        return Listing(kind, images, digest.hexdigest(), skipped, size, buffer.getvalue())

    def items(self, listing: pq.ParquetFile, kind: str, start: int, stop: int) -> Iterator[Item]:
        """Yield the images of a listing from ``start`` to ``stop``.

        Images of a remote source come without their data, see `fetch`.
        """
        at = 0
        for number in range(listing.num_row_groups):
            rows = listing.metadata.row_group(number).num_rows
            if kind == "images" and at + rows <= start:  # a row is one image
                at += rows
                continue
            columns = ["path", "rows", "error"]
            group = listing.read_row_group(number, columns=columns, use_threads=False)
            for row in group.to_pylist():
                path, count = row["path"], row["rows"]
                if at >= stop:
                    return
                if at + count > start:
                    if row["error"] is not None:
                        yield Item(path, error=row["error"])
                    elif kind == "images":
                        yield Item(path, str(self._root / path) if self._root.is_local else b"")
                    else:
                        first, last = max(start - at, 0), min(stop - at, count)
                        images = ParquetImages(self._root / path)
                        for index, data, error in images.read(first, last):
                            yield Item(f"{path}:{index}", data, error)
                at += count

    def fetch(self, items: list[Item]) -> list[Item]:
        """Return the items with the data of remote files."""
        missing = [item.id for item in items if not item.data and item.error is None]
        if self._root.is_local or not missing:
            return items
        found = self._root.read_many(missing)
        wanted = frozenset(missing)

        def complete(item: Item) -> Item:
            if item.id not in wanted:
                return item
            data = found.get(item.id, FileNotFoundError("it no longer exists"))
            if isinstance(data, Exception):
                return Item(item.id, error=f"cannot be read: {data}")
            return Item(item.id, data)

        return [complete(item) for item in items]

    def _files(self) -> Iterator[_File]:
        """Yield the files, in an order that depends on their names only."""
        if self._root.is_local:
            yield from map(self._local_file, self._local_entries())
        elif self._is_file:
            yield self._remote_file((self._root / self._name).info())
        elif self._pattern is not None:
            # In memory, unlike other listings.
            found = self._root.matching(self._below(self._pattern))
            yield from (self._remote_file(info) for info in found if info["type"] == "file")
        else:
            yield from self._remote_walk(self._root.path)

    def _local_entries(self) -> Iterator[FolderEntry]:
        root = self._root.local
        if self._is_file:
            yield FolderEntry.of(root, self._name)
        elif self._pattern is not None:
            for info in self._root.matching(self._below(self._pattern)):
                entry = FolderEntry.of(root, self._below(info["name"]))
                if not entry.path.endswith("/"):
                    yield entry
        else:
            yield from walk(root)

    def _local_file(self, entry: FolderEntry) -> _File:
        path = printable_path(entry.path)
        if path != entry.path:
            if self._kind(path) == "parquet":
                require_utf8(entry.path)
            return _File(path, 0, "", "its name is not UTF-8")
        if entry.error is not None:
            return _File(path, 0, "", f"cannot be read: {entry.error.strerror or entry.error}")
        seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
        return _File(path, entry.size, str(seconds + 1e-9 * nanoseconds))

    def _remote_walk(self, folder: str) -> Iterator[_File]:
        for info in self._root.at(folder).entries():
            name = info["name"].rstrip("/")
            if name == folder or is_hidden(posixpath.basename(name)):
                continue  # object stores list some folders as their own entries
            if info["type"] == "file":
                yield self._remote_file(info)
            elif info["type"] == "directory":
                yield from self._remote_walk(name)

    def _remote_file(self, info: dict[str, Any]) -> _File:
        keys = ("ETag", "mtime", "LastModified", "CRC")
        stamp = next((info[key] for key in keys if key in info), "")
        return _File(self._below(info["name"]), info["size"] or 0, str(stamp))

    def _below(self, path: str) -> str:
        return path.removeprefix(self._root.path).lstrip("/")

    def _is_output(self, path: str, output: Place) -> bool:
        """Whether a file is an output or one of its parts, also through a link."""
        place, other = (self._root / path).path, output.path
        if self._root.is_local:
            place, other = os.path.realpath(place), os.path.realpath(other)
        return place == other or place.startswith(f"{other}.parts/")

    def _kind(self, path: str) -> str | None:
        if path.lower().endswith(".parquet"):
            return "parquet"
        if path.endswith("/"):
            return "folders"  # one that cannot be read
        named = self._is_file or self._pattern is not None
        return "images" if named or is_image_name(path) else None


def _fixed_part(pattern: Place) -> Place:
    """Return the folder that a pattern starts with: all components up to the first that varies."""
    folder = ""
    for name in pattern.path.split("/")[:-1]:
        path = f"{folder}{name}"
        if has_magic(name) and not pattern.at(path).exists():
            break
        folder = f"{path}/"
    return pattern.at(folder.rstrip("/") or folder)
