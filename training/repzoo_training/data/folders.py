"""Folders of image files, with or without class subfolders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image
from repzoo.bulk.folders import FolderEntry, printable_path, walk
from repzoo.bulk.formats import IMAGE_SUFFIXES, is_image_name
from repzoo.runtime.images import decode

from repzoo_training.data.dataset import ImageDataset
from repzoo_training.data.pixels import Size, stack_pixels
from repzoo_training.data.splits import AnySplit, Split, split_named
from repzoo_training.errors import DataError

__all__ = ["load_image_folder"]

#: Suffixes of image formats that are not supported; a note says how many files were left out.
_UNSUPPORTED = frozenset(
    (
        *(".arw", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".heic"),
        *(".heif", ".ico", ".jxl", ".nef", ".psd", ".raw", ".svg", ".tga"),
    )
)


class _ImageFile(NamedTuple):
    """An image file, or an entry of the folder that cannot be read."""

    entry: FolderEntry
    split: AnySplit
    #: The class folder; empty for an image outside of one.
    label: str


def load_image_folder(
    folder: Path, split: Split, *, size: Size | None, strict: bool, progress: bool
) -> ImageDataset:
    """Read all images of one split in ``folder``, in the order of their paths.

    Subfolders named as in :mod:`repzoo_training.data.splits` are splits. Without them, all images
    are a train split. If every image of a split is in a subfolder, and there are at least two
    subfolders, their names are the classes. Both splits use the class numbers of the train split.

    Raises:
        DataError: If the folder has no images of the split, or too many cannot be read.
    """
    entries = list(walk(folder))
    files, note = _assign(
        [e for e in entries if is_image_name(e.path) or (e.error and e.path.endswith("/"))]
    )
    if not files:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no images found in {folder} (supported: {suffixes})")
    mine = [file for file in files if file.split == split]
    splits: dict[str, int] = dict(Counter(file.split for file in files))
    if not mine:
        found = ", ".join(f"{name} ({number:,} images)" for name, number in splits.items())
        raise DataError(f"{folder} has no {split} split, only {found}")

    classes = _classes(file for file in files if file.split == "train") or _classes(mine)
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [file.entry.path for file in mine if file.label not in numbers]
    if classes and unknown:
        raise DataError(
            f"{folder}/{printable_path(unknown[0])} is in none of the {len(classes)} class folders "
            f"of the train split: {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"
        )

    def open_image(index: int) -> Image.Image:
        entry = mine[index].entry
        if entry.error is not None:
            raise entry.error
        return decode((folder / entry.path).read_bytes())

    name = printable_path(folder.resolve().name)
    stacked = stack_pixels(
        len(mine),
        open_image,
        lambda index: printable_path(str(folder / mine[index].entry.path)),
        name=name,
        size=size,
        strict=strict,
        progress=progress,
    )
    labels = None
    if classes:
        labels = np.array([numbers[mine[index].label] for index in stacked.kept], np.int64)
    unsupported = Counter(PurePath(entry.path).suffix.lower() for entry in entries)
    notes = [
        f"{folder}: {number:,} {suffix} files are not used, because the format is not supported"
        for suffix, number in sorted(unsupported.items())
        if suffix in _UNSUPPORTED
    ]
    return ImageDataset(
        name=name,
        images=stacked.pixels,
        labels=labels,
        classes=tuple(printable_path(name) for name in classes),
        splits=splits,
        notes=(*([f"{folder}: {note}"] if note else []), *notes, *stacked.notes),
        skipped=stacked.skipped,
    )


def _assign(entries: list[FolderEntry]) -> tuple[list[_ImageFile], str]:
    """Find the split and the class folder of every image; may return a note.

    Splits are the first or second component of paths: ``train/cat/1.png``, ``cat/train/1.png`` or
    ``download/train/cat/1.png``. A folder of pictures of trains is not a train split: names of
    splits only count if there are both a train and a test split, or nothing else.
    """
    parts = [entry.path.split("/") for entry in entries]
    for depth in (0, 1):
        names = {path[depth] if len(path) > depth + 1 else "" for path in parts}
        splits = {split_named(name) for name in names}
        both = {"train", "test"} <= splits
        only = None not in splits and bool({"train", "test"} & splits)
        if (both or only) if depth == 0 else (both and only):
            files = _with_splits(entries, parts, depth)
            left = len(entries) - len(files)
            return files, f"{left:,} images outside of the splits are not used" if left else ""
    labels = [path[0] if len(path) > 1 else "" for path in parts]
    named = sorted({label for label in labels if split_named(label) in ("train", "test")})
    note = (
        f"the folder {printable_path(named[0])} is not used as a split, because there are other "
        "images next to it: all images are used for training"
        if named
        else ""
    )
    return [
        _ImageFile(entry, "train", label) for entry, label in zip(entries, labels, strict=True)
    ], note


def _with_splits(
    entries: list[FolderEntry], parts: list[list[str]], depth: int
) -> list[_ImageFile]:
    rest = [path[:depth] + path[depth + 1 :] for path in parts]
    if depth and len({path[0] for path in rest}) == 1:  # a folder that only wraps the splits
        rest = [path[1:] for path in rest]
    found = [
        (entry, split_named(path[depth]) if len(path) > depth + 1 else None, below)
        for entry, path, below in zip(entries, parts, rest, strict=True)
    ]
    return [
        _ImageFile(entry, split, below[0] if len(below) > 1 else "")
        for entry, split, below in found
        if split is not None
    ]


def _classes(files: Iterable[_ImageFile]) -> tuple[str, ...]:
    """Return the sorted class folders, if all images are in two or more of them."""
    names = {file.label for file in files}
    return tuple(sorted(names)) if "" not in names and len(names) > 1 else ()
