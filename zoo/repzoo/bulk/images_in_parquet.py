"""Images in Parquet files, in the layout of Hugging Face ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from repzoo.bulk.image_columns import holds_images, image_column
from repzoo.bulk.places import Place
from repzoo.bulk.streams import open_parquet
from repzoo.errors import InvalidInput

__all__ = ["ParquetImages"]

# Rows that are read at once: a few MB of photographs.
_ROWS = 64


class ParquetImages:
    """A Parquet file with a column of images.

    The column is the first one whose Hugging Face feature is an Image, or else ``image`` or
    ``img``. It holds encoded bytes, or structs of ``bytes`` and ``path``. If there are no bytes,
    the path is relative to the Parquet file.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def rows(self) -> int:
        """The number of images.

        Raises:
            InvalidInput: If the file is not a Parquet file, or has no column of images.
        """
        assert self._column
        rows: int = self._file.metadata.num_rows
        return rows

    def read(self, start: int, stop: int) -> Iterator[tuple[int, bytes | str, str | None]]:
        """Yield number, data and error of each row from ``start`` to ``stop``."""
        at = 0
        for number in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(number).num_rows
            if at + rows > start and at < stop:
                row = at
                for batch in self._file.iter_batches(
                    _ROWS, row_groups=[number], columns=[self._column], use_threads=False
                ):
                    if row >= stop:
                        break
                    if row + len(batch) > start:
                        images = batch.slice(max(start - row, 0), stop - max(start, row))
                        for index, image in enumerate(images.column(0), max(start, row)):
                            yield index, *self._data(image.as_py())
                    row += len(batch)
            at += rows

    @cached_property
    def _file(self) -> pq.ParquetFile:
        try:
            # Without a buffer, whole row groups would be in memory.
            return open_parquet(self._place.open(), buffer_size=2**20)
        except (OSError, pa.ArrowException) as error:
            raise InvalidInput(f"{self._place} cannot be read as Parquet: {error}") from None

    @cached_property
    def _column(self) -> str:
        schema = self._file.schema_arrow
        name = image_column(schema)
        if name is None:
            raise InvalidInput(
                f"{self._place} has no column of images: expected 'image' or 'img', got "
                f"{', '.join(schema.names[:8])}"
            )
        kind = schema.field(name).type
        if not holds_images(kind):
            raise InvalidInput(
                f"{self._place}: column {name!r} is {kind}; expected encoded images, as bytes "
                "or a struct of bytes and path"
            )
        return name

    def _data(self, image: Any) -> tuple[bytes | str, str | None]:
        """Return the encoded image, or its path on this machine; or else an error."""
        path = None
        if isinstance(image, dict):
            image, path = image.get("bytes"), image.get("path")
        if image:
            return image, None
        if not isinstance(path, str) or not path:
            return b"", "no image bytes"
        if self._place.is_local:  # any path, as for datasets itself
            file = self._place.local.parent / path
            return (str(file), None) if file.is_file() else (b"", f"{file} is not a file")
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:  # nothing outside the remote folder
            return b"", f"no image bytes, and {path} is outside the folder"
        file_beside = self._place.at(self._place.path.rpartition("/")[0]) / path
        try:
            return file_beside.read(), None
        except OSError as error:
            return b"", f"{file_beside} cannot be read: {error}"
