"""Images in parquet files, in the layout of Hugging Face ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from repzoo.bulk.image_columns import holds_images, image_column
from repzoo.bulk.places import Place
from repzoo.errors import InvalidInput

__all__ = ["ParquetImages"]

# Rows that are decoded at once: a few MB of photographs.
_ROWS = 64


class ParquetImages:
    """One parquet file with a column of images.

    It is the column that the Hugging Face features call an Image, or else ``image`` or ``img``: a
    struct of ``bytes`` and ``path``, or encoded bytes. An image that is only a path lies beside the
    file.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def rows(self) -> int:
        """How many there are.

        Raises:
            InvalidInput: if it is no parquet file, or has no images.
        """
        assert self._column
        rows: int = self._file.metadata.num_rows
        return rows

    def read(self, start: int, stop: int) -> Iterator[tuple[int, bytes | str, str | None]]:
        """Yield row, data and error of the rows from one number to another."""
        at = 0
        for number in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(number).num_rows
            if at + rows > start and at < stop:
                row = at
                for batch in self._file.iter_batches(
                    _ROWS, row_groups=[number], columns=[self._column]
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
            # With a buffer, or each row group would be in memory whole.
            return pq.ParquetFile(self._place.open(), buffer_size=2**20)
        except (OSError, pa.ArrowException) as error:
            raise InvalidInput(f"{self._place} cannot be read as parquet: {error}") from None

    @cached_property
    def _column(self) -> str:
        schema = self._file.schema_arrow
        name = image_column(schema)
        if name is None:
            raise InvalidInput(
                f"{self._place} has no column of images: expected 'image' or 'img', found "
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
        if isinstance(image, dict):
            path = image.get("path")
            image = image.get("bytes") or (self._beside(path) if path else None)
        return (b"", "no image bytes") if image is None else (image, None)

    def _beside(self, path: str) -> bytes | str | None:
        """What lies beside the file, but not elsewhere."""
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            return None
        there = Place(self._place.fs, self._place.path.rsplit("/", 1)[0]) / path
        if there.is_local:
            return str(there)
        return there.read() if there.exists() else None
