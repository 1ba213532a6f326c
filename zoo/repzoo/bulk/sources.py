"""What a source holds: a listing, made once, and from it the images of each part.

The listing is a parquet file beside the parts, so that a source of any length needs no memory,
every worker sees the same order, and a source that has changed since is noticed.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import has_magic  # type: ignore[import-untyped]

from repzoo.bulk.images_in_parquet import ParquetImages
from repzoo.bulk.places import Place, require_utf8
from repzoo.errors import InvalidInput

__all__ = ["Item", "Listing", "Source"]

#: File names that are taken for images where a folder is given; others are passed over.
_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"),
    ".webp",
)

_SCHEMA = pa.schema(
    [("path", pa.string()), ("size", pa.int64()), ("stamp", pa.string()), ("rows", pa.int64())]
)

#: Rows that are gathered before they are written to a listing: one row group.
_GROUP = 8192


class Item(NamedTuple):
    """One image of a source."""

    #: its path below the source; of a parquet file, ``FILE:ROW``.
    id: str
    #: the encoded file, or its path on this machine.
    data: bytes | str = b""
    #: why there is no data.
    error: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a source held when it was listed."""

    #: "images" or "parquet".
    kind: str
    #: how many images.
    images: int
    #: sha256 over the names, sizes and times (or ETags) of its files, in hex.
    digest: str
    #: other files, which are passed over.
    skipped: int
    #: the parquet file with all of it.
    data: bytes


class _File(NamedTuple):
    path: str  # below the root
    size: int
    stamp: str


class Source:
    """A folder, a file, a pattern, or a parquet file or folder of them, local or by URL.

    Args:
        url: of it.

    Raises:
        InvalidInput: if there is nothing, or no such kind of URL.
    """

    def __init__(self, url: str) -> None:
        place = Place.of(url)
        self._pattern = place.path if has_magic(place.path) else None
        if self._pattern is not None:
            fixed = place.path.split("*")[0].split("?")[0].split("[")[0]
            place = Place(place.fs, posixpath.dirname(fixed))
        elif not place.exists():
            raise InvalidInput(f"{url}: there is nothing")
        self._is_file = self._pattern is None and place.is_file()
        self._root = Place(place.fs, posixpath.dirname(place.path)) if self._is_file else place
        self._name = place.name

    def __str__(self) -> str:
        if self._pattern is not None:
            return str(Place(self._root.fs, self._pattern))
        return str(self._root / self._name if self._is_file else self._root)

    def look(self, besides: Place) -> Listing:
        """See what it holds now.

        Args:
            besides: an output, which may lie in it and is no part of it; neither are its parts.

        Raises:
            InvalidInput: if that is no image, or images and parquet files together, or the name of
                one is not UTF-8.
        """
        kinds: dict[str, str] = {}
        digest, images, skipped = hashlib.sha256(), 0, 0
        buffer = io.BytesIO()
        group: list[dict[str, Any]] = []
        with pq.ParquetWriter(buffer, _SCHEMA) as writer:
            for file in self._files():
                path = (self._root / file.path).path
                if path == besides.path or path.startswith(f"{besides.path}.parts/"):
                    continue
                kind = self._kind(file.path)
                if kind is None:
                    skipped += 1
                    continue
                kinds.setdefault(kind, file.path)
                if len(kinds) == 2:
                    raise InvalidInput(
                        f"{self} holds images ({kinds['images']}) and parquet files "
                        f"({kinds['parquet']}): say which by a pattern, such as "
                        f"'{self._root}/**/*.parquet'"
                    )
                require_utf8(path)
                rows = 1 if kind == "images" else ParquetImages(self._root / file.path).rows
                digest.update(f"{file.path}\0{file.size}\0{file.stamp}\0{rows}\n".encode())
                images += rows
                group.append({**file._asdict(), "rows": rows})
                if len(group) == _GROUP:
                    writer.write_table(pa.Table.from_pylist(group, _SCHEMA))
                    group = []
            if group:
                writer.write_table(pa.Table.from_pylist(group, _SCHEMA))
        if not images:
            raise InvalidInput(f"{self} holds no images ({skipped} other files)")
        (kind,) = kinds
        return Listing(kind, images, digest.hexdigest(), skipped, buffer.getvalue())

    def items(self, listing: pq.ParquetFile, kind: str, start: int, stop: int) -> Iterator[Item]:
        """The images from one number of the listing to another.

        Those of a remote source come without their data: see `fetch`.
        """
        at = 0
        for number in range(listing.num_row_groups):
            rows = listing.metadata.row_group(number).num_rows
            if kind == "images" and at + rows <= start:  # one image a row: not ours
                at += rows
                continue
            group = listing.read_row_group(number, columns=["path", "rows"])
            for path, count in zip(*(column.to_pylist() for column in group.columns), strict=True):
                if at >= stop:
                    return
                if at + count > start:
                    if kind == "images":
                        yield Item(path, str(self._root / path) if self._root.is_local else b"")
                    else:
                        first, last = max(start - at, 0), min(stop - at, count)
                        images = ParquetImages(self._root / path)
                        for row, data, error in images.read(first, last):
                            yield Item(f"{path}:{row}", data, error)
                at += count

    def fetch(self, items: list[Item]) -> list[Item]:
        """The same items, with the data of those that lie elsewhere."""
        missing = [item.id for item in items if not item.data and item.error is None]
        if self._root.is_local or not missing:
            return items
        found = self._root.read_many(missing)
        wanted = frozenset(missing)

        def complete(item: Item) -> Item:
            if item.id not in wanted:
                return item
            data = found.get(item.id, FileNotFoundError("it is gone"))
            if isinstance(data, Exception):
                return Item(item.id, error=f"cannot be read: {data}")
            return Item(item.id, data)

        return [complete(item) for item in items]

    def _files(self) -> Iterator[_File]:
        if self._is_file:
            found = [(self._root / self._name).info()]
        elif self._pattern is not None:
            # The one listing that is in memory whole.
            found = Place(self._root.fs, self._pattern).matching()
        else:
            yield from self._walk(self._root.path)
            return
        yield from (self._file(info) for info in found if info["type"] == "file")

    def _walk(self, folder: str) -> Iterator[_File]:
        """All files below a folder, in an order that depends on nothing but their names."""
        for info in Place(self._root.fs, folder).entries():
            name = info["name"].rstrip("/")
            if name == folder or posixpath.basename(name).startswith("."):
                continue  # object stores list some folders in themselves
            if info["type"] == "file":
                yield self._file(info)
            elif info["type"] == "directory" and not info.get("islink"):
                yield from self._walk(name)

    def _file(self, info: dict[str, Any]) -> _File:
        stamp = next((info[k] for k in ("ETag", "mtime", "LastModified") if k in info), "")
        path = info["name"].removeprefix(self._root.path).lstrip("/")
        return _File(path, info["size"] or 0, str(stamp))

    def _kind(self, path: str) -> str | None:
        if path.lower().endswith(".parquet"):
            return "parquet"
        named = self._is_file or self._pattern is not None
        return "images" if named or path.lower().endswith(_SUFFIXES) else None
