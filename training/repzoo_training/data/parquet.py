"""Parquet folders in the layout of Hugging Face ``datasets``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from repzoo.bulk.image_columns import features, holds_images, image_column
from repzoo.errors import InvalidImage
from repzoo.runtime.images import decode

from repzoo_training.data.dataset import ImageDataset, Split
from repzoo_training.data.pixels import Size, stack_pixels
from repzoo_training.errors import DataError

__all__ = ["is_parquet_folder", "load_parquet_folder"]

#: train.parquet, train-00000-of-00003.parquet, train-00000-of-00003-0123456789abcdef.parquet
_SHARD = re.compile(r"(\w+?)(?:-(\d{5})-of-(\d{5})(?:-\w+)?)?\.parquet")


class _Columns(NamedTuple):
    image: str
    label: str | None
    classes: tuple[str, ...]
    attributes: tuple[str, ...]


class _Rows(NamedTuple):
    """One shard in memory: its images still encoded, as ``{"bytes": ..., "path": ...}``."""

    path: Path
    images: list[dict[str, Any] | None]
    labels: NDArray[np.int64] | None
    attributes: NDArray[np.bool_] | None


def is_parquet_folder(folder: Path) -> bool:
    """Whether ``folder``, or ``folder/data`` as on the Hub, holds parquet files."""
    return bool(_files(folder))


def load_parquet_folder(
    folder: Path, split: Split, *, size: Size | None, progress: bool
) -> ImageDataset:
    """Read ``SPLIT.parquet`` or the shards ``SPLIT-00000-of-00003.parquet``, ... of a folder.

    The image column is the one that the Hugging Face features call an Image, or ``image`` or
    ``img``: a struct of ``bytes`` and ``path``, or encoded bytes. Labels come from the column
    ``label`` or else the first ClassLabel; a negative label means "none". All bool columns
    together are the attributes.

    Raises:
        DataError: naming the file, and the row (from 0) where one is at fault.
    """
    paths = _shards(folder, split)
    columns = _columns(paths[0])
    shards = [_read(path, columns) for path in paths]

    rows = [(shard, row) for shard in shards for row in range(len(shard.images))]
    if not rows:
        raise DataError(f"{folder} has no {split} images: its parquet files have no rows")

    def open_image(index: int) -> Image.Image:
        shard, row = rows[index]
        return decode(_encoded(shard, row))

    def place(index: int) -> str:
        shard, row = rows[index]
        return f"{shard.path} row {row}"

    name = folder.resolve().name
    images = stack_pixels(len(rows), open_image, place, name=name, size=size, progress=progress)
    labels, classes = _labels(shards, columns)
    attributes = [shard.attributes for shard in shards if shard.attributes is not None]
    return ImageDataset(
        name=name,
        images=images,
        labels=labels,
        classes=classes,
        attributes=np.concatenate(attributes) if attributes else None,
        attribute_names=columns.attributes,
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def _shards(folder: Path, split: Split) -> list[Path]:
    """The files of one split, in order and complete."""
    named = [(match, path) for path in _files(folder) if (match := _SHARD.fullmatch(path.name))]
    mine = [(match, path) for match, path in named if match[1] == split]
    if not mine:
        splits = ", ".join(sorted({match[1] for match, _ in named})) or "no named splits"
        raise DataError(
            f"{folder} has no {split} split: no {split}-*.parquet (its files are of: {splits})"
        )
    for total in {match[3] for match, _ in mine if match[3]}:
        have = {int(match[2]) for match, _ in mine if match[3] == total}
        if missing := sorted(set(range(int(total))) - have):
            raise DataError(f"{folder} lacks {split}-{missing[0]:05d}-of-{total}.parquet")
    return [path for _, path in mine]


def _columns(path: Path) -> _Columns:
    """Which columns hold what, from the Hugging Face features or else by name and type."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from None
    known = features(schema)
    image = image_column(schema)
    if image is None:
        raise DataError(
            f"{path} has no image column: expected 'image' or 'img', "
            f"found {', '.join(schema.names[:8])}"
        )
    marked = [name for name in schema.names if known.get(name, {}).get("_type") == "ClassLabel"]
    label_names = ("label", "labels", *marked)
    label = next((name for name in label_names if name in schema.names), None)
    return _Columns(
        image=image,
        label=label,
        classes=tuple(known.get(label or "", {}).get("names", ())),
        attributes=tuple(f.name for f in schema if pa.types.is_boolean(f.type)),
    )


def _read(path: Path, columns: _Columns) -> _Rows:
    wanted = [columns.image, *columns.attributes] + ([columns.label] if columns.label else [])
    try:
        table = pq.read_table(path, columns=wanted, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from None
    if missing := [name for name in wanted if name not in table.column_names]:
        raise DataError(f"{path} has no column {missing[0]!r}, which the first shard has")

    for name in (*columns.attributes, *([columns.label] if columns.label else [])):
        if table[name].null_count:
            row = pc.index(table[name].is_null(), True).as_py()
            raise DataError(f"{path} row {row}: no value for {name!r}")
    labels = None
    if columns.label:
        if not pa.types.is_integer(table.schema.field(columns.label).type):
            found = table.schema.field(columns.label).type
            raise DataError(f"{path}: column {columns.label!r} is {found}; labels must be integers")
        labels = table[columns.label].to_numpy().astype(np.int64)
    attributes = None
    if columns.attributes:
        attributes = np.stack([table[name].to_numpy() for name in columns.attributes], axis=1)

    image_type = table.schema.field(columns.image).type
    images = table[columns.image].to_pylist()
    if not holds_images(image_type):
        raise DataError(
            f"{path}: column {columns.image!r} is {image_type}; "
            "expected encoded images, as bytes or a struct of bytes and path"
        )
    if not pa.types.is_struct(image_type):
        images = [{"bytes": data, "path": None} for data in images]
    return _Rows(path, images, labels, attributes)


def _encoded(shard: _Rows, row: int) -> bytes:
    image = shard.images[row] or {}
    data: bytes | None = image.get("bytes")
    path: str | None = image.get("path")
    if data:
        return data
    if path:  # images kept as files beside the parquet file
        return (shard.path.parent / path).read_bytes()
    raise InvalidImage("no image bytes")


def _labels(
    shards: list[_Rows], columns: _Columns
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if columns.label is None:
        return None, ()
    labels = np.concatenate([shard.labels for shard in shards if shard.labels is not None])
    if (labels < 0).all():  # how datasets marks a test set whose labels are kept back
        return None, ()
    classes = columns.classes or tuple(map(str, range(int(labels.max()) + 1)))
    for shard in shards:
        assert shard.labels is not None
        outside = np.flatnonzero((shard.labels < 0) | (shard.labels >= len(classes)))
        if len(outside):
            row = int(outside[0])
            raise DataError(
                f"{shard.path} row {row}: label {shard.labels[row]} is not one of "
                f"{len(classes)} classes"
            )
    return labels, classes
