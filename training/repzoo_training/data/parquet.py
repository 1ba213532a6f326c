"""Folders of parquet files in the layouts of Hugging Face ``datasets``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from repzoo.bulk.folders import printable_path
from repzoo.bulk.image_columns import features, holds_images, image_column
from repzoo.errors import InvalidImage
from repzoo.runtime.images import decode

from repzoo_training.data.dataset import ImageDataset
from repzoo_training.data.pixels import Size, input_spec, stack_pixels
from repzoo_training.data.splits import ADVICE, AnySplit, Split, split_named
from repzoo_training.errors import DataError

__all__ = ["is_parquet_folder", "load_parquet_folder"]

#: train.parquet, train-00000-of-00003.parquet, train-00000-of-00003-0123456789abcdef.parquet
_SHARD = re.compile(r"(.+?)(?:-(\d{5})-of-(\d{5})(?:-\w+)?)?\.parquet")

#: Where parquet files may be: named after their split, or in a folder named after it.
_NAMED_FILES = ("*.parquet", "data/*.parquet")
_NAMED_FOLDERS = ("*/*.parquet", "*/*/*.parquet")

#: Larger labels need class names: they are more likely identifiers than classes.
_MAX_CLASSES = 100_000


class _Columns(NamedTuple):
    image: str
    label: str | None
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    group: str | None


class _Shard(NamedTuple):
    """One file in memory; its images are still encoded, as ``{"bytes": ..., "path": ...}``."""

    path: Path
    images: list[dict[str, Any] | None]
    table: pa.Table


def is_parquet_folder(folder: Path) -> bool:
    """Return whether ``folder`` holds parquet files in a layout of ``datasets``."""
    return bool(_files(folder))


def load_parquet_folder(
    folder: Path,
    split: Split,
    *,
    size: Size | None,
    max_skipped: float,
    progress: bool,
    group_by: str | None = None,
) -> ImageDataset:
    """Read one split of a folder of parquet files.

    Files are named like ``train.parquet`` or ``data/train-00000-of-00003.parquet``, or are in a
    folder like ``default/train``. The image column is the first Image in the Hugging Face features,
    or ``image`` or ``img``. It holds encoded bytes, or structs of ``bytes`` and ``path``. Labels
    are in the column ``label`` or ``labels``, or in the first ClassLabel. All bool columns are
    attributes. Labels and attributes that cannot be used are ignored, with a note. Without a test
    split, the validation split takes its place. Images with the same value in the column
    ``group_by`` are a group, and an image without a value is one alone.

    Raises:
        DataError: If a file cannot be read, or too many of its images, or there is no such column.
    """
    paths = _shards(folder, split)
    columns = _columns(paths[0], group_by)
    shards = [_read(path, columns) for path in paths]
    rows = [(shard, row) for shard in shards for row in range(len(shard.images))]
    if not rows:
        raise DataError(f"{folder} has no {split} images: its parquet files have no rows")

    name = printable_path(folder.resolve().name)
    spec = None if size is None else input_spec(size)
    contents = np.zeros(len(rows), "V32")

    def open_image(index: int) -> Image.Image:
        data = _encoded(*rows[index])
        contents[index] = hashlib.sha256(data).digest()
        return decode(data, spec)

    stacked = stack_pixels(
        len(rows),
        open_image,
        lambda index: f"{printable_path(str(rows[index][0].path))} row {rows[index][1]}",
        name=name,
        size=size,
        max_skipped=max_skipped,
        progress=progress,
    )
    kept = np.asarray(stacked.kept)
    labels, classes, notes = _labels(shards, columns, kept)
    names, attributes = [], []
    for attribute in columns.attributes:
        values = _column(shards, attribute)
        if values.null_count:
            notes.append(f"attribute {attribute!r} is not used: it has missing values")
        else:
            names.append(attribute)
            attributes.append(values.to_numpy(zero_copy_only=False)[kept])
    return ImageDataset(
        name=name,
        images=stacked.pixels,
        groups=None if group_by is None else _groups(shards, group_by, kept),
        labels=labels,
        classes=classes,
        attributes=np.stack(attributes, axis=1) if attributes else None,
        attribute_names=tuple(names),
        splits=_split_sizes(folder),
        notes=(*(f"{folder}: {note}" for note in notes), *stacked.notes),
        skipped=stacked.skipped,
        contents=contents[kept],
    )


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return the parquet files, each with the name of its split."""
    for pattern in _NAMED_FILES:
        named = [
            (match[1], path)
            for path in sorted(folder.glob(pattern))
            if (match := _SHARD.fullmatch(path.name)) and match[1] != "metadata"
        ]
        if named:
            return named
    for pattern in _NAMED_FOLDERS:
        named = [
            (path.parent.name, path)
            for path in sorted(folder.glob(pattern))
            if split_named(path.parent.name) and path.stem != "metadata"
        ]
        if named:
            return named
    return []


def _shards(folder: Path, split: AnySplit) -> list[Path]:
    """Return the files of one split, in order, and check that none is missing."""
    files = _files(folder)
    mine = [path for name, path in files if split_named(name) == split]
    if split == "test" and not mine:
        mine = [path for name, path in files if split_named(name) == "validation"]
    if not mine:
        names = ", ".join(sorted({name for name, _ in files}))
        advice = f"; {ADVICE[split]}" if split == "test" else ""
        raise DataError(
            f"{folder} has no {split} split: its parquet files are named {names}{advice}"
        )
    configurations = sorted({path.parent.parent.name for path in mine})
    if len(configurations) > 1:
        raise DataError(
            f"{folder} has several configurations: use one of its folders, "
            f"{', '.join(configurations)}"
        )
    numbers: dict[str, set[int]] = {}
    for path in mine:
        match = _SHARD.fullmatch(path.name)
        if match and match[3]:
            numbers.setdefault(match[3], set()).add(int(match[2]))
    for total, present in numbers.items():
        if missing := sorted(set(range(int(total))) - present):
            raise DataError(f"{folder} lacks {split}-{missing[0]:05d}-of-{total}.parquet")
    return mine


def _split_sizes(folder: Path) -> dict[str, int]:
    """Return the number of rows of each split; splits that cannot be read are left out."""
    sizes: dict[str, int] = {}
    for name, path in _files(folder):
        split = split_named(name) or name
        try:
            sizes[split] = sizes.get(split, 0) + pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException):
            continue
    return sizes


def _groups(shards: list[_Shard], column: str, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of each kept row, int64 ``[N]``."""
    values = _column(shards, column).to_pylist()
    named = [f"{values[row]!r}" if values[row] is not None else f"row {row}" for row in kept]
    return np.unique(named, return_inverse=True)[1].astype(np.int64)


def _columns(path: Path, group_by: str | None) -> _Columns:
    """Find the columns by the Hugging Face features, or else by name and type."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from None
    if group_by is not None and group_by not in schema.names:
        raise DataError(
            f"{path} has no column {group_by!r} to group images by, only "
            f"{', '.join(schema.names[:8])}{', ...' if len(schema.names) > 8 else ''}"
        )
    known = features(schema)
    image = image_column(schema)
    if image is None:
        raise DataError(
            f"{path} has no image column: expected 'image' or 'img', "
            f"found {', '.join(schema.names[:8])}"
        )
    marked = [name for name in schema.names if known.get(name, {}).get("_type") == "ClassLabel"]
    found = [name for name in ("label", "labels", *marked) if name in schema.names]
    usable = [name for name in found if pa.types.is_integer(schema.field(name).type)]
    label = next(iter([*usable, *found]), None)
    names = known.get(label or "", {}).get("names")
    return _Columns(
        image=image,
        label=label,
        classes=tuple(map(str, names)) if isinstance(names, list) else (),
        attributes=tuple(f.name for f in schema if pa.types.is_boolean(f.type)),
        group=group_by,
    )


def _read(path: Path, columns: _Columns) -> _Shard:
    named = (columns.image, *columns.attributes, columns.label, columns.group)
    wanted = {name for name in named if name}
    try:
        table = pq.read_table(path, columns=sorted(wanted), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from None
    if missing := sorted(wanted - set(table.column_names)):
        raise DataError(f"{path} has no column {missing[0]!r}, but the first shard has one")
    image_type = table.schema.field(columns.image).type
    if not holds_images(image_type):
        raise DataError(
            f"{path}: column {columns.image!r} is {image_type}, "
            "expected encoded images, as bytes or a struct of bytes and path"
        )
    images = table[columns.image].to_pylist()
    if not pa.types.is_struct(image_type):
        images = [{"bytes": data, "path": None} for data in images]
    return _Shard(path, images, table.drop_columns([columns.image]))


def _encoded(shard: _Shard, row: int) -> bytes:
    image = shard.images[row] or {}
    data: bytes | None = image.get("bytes")
    path: str | None = image.get("path")
    if data:
        return data
    if path:  # images stored as files next to the parquet file
        return (shard.path.parent / path).read_bytes()
    raise InvalidImage("no image bytes")


def _column(shards: list[_Shard], name: str) -> pa.Array:
    return pa.chunked_array(
        [chunk for shard in shards for chunk in shard.table[name].chunks],
    ).combine_chunks()


def _labels(
    shards: list[_Shard], columns: _Columns, kept: NDArray[np.intp]
) -> tuple[NDArray[np.int64] | None, tuple[str, ...], list[str]]:
    """Return labels and classes, or a note on why the labels cannot be used."""

    def unused(reason: str) -> tuple[None, tuple[str, ...], list[str]]:
        return None, (), [f"labels in column {columns.label!r} are not used: {reason}"]

    if columns.label is None or columns.label in columns.attributes:
        return None, (), []
    types = {shard.table.schema.field(columns.label).type for shard in shards}
    if not all(map(pa.types.is_integer, types)):
        return unused(f"expected integers, found {', '.join(sorted(map(str, types)))}")
    values = np.concatenate(
        [shard.table[columns.label].to_numpy() for shard in shards if len(shard.table)]
    )[kept]
    if any(shard.table[columns.label].null_count for shard in shards):
        return unused("some are missing")
    labels = values.astype(np.int64)
    if (labels < 0).all():  # how datasets marks a test set whose labels are not published
        return None, (), []
    least, most = int(labels.min()), int(labels.max())
    if least < 0:
        return unused(f"some are negative ({least})")
    if most >= (len(columns.classes) or _MAX_CLASSES):
        return unused(
            f"label {most} is not one of {len(columns.classes)} classes"
            if columns.classes
            else f"label {most} is too large for a class number"
        )
    return labels, columns.classes or tuple(map(str, range(most + 1))), []
