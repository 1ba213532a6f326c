"""Folders of image files, with or without class subfolders."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image
from repzoo.bulk.folders import FolderEntry, printable_path, walk
from repzoo.bulk.formats import IMAGE_SUFFIXES, is_image_name
from repzoo.runtime.images import decode

from repzoo_training.data.dataset import ImageDataset
from repzoo_training.data.pixels import Size, input_spec, stack_pixels
from repzoo_training.data.splits import ADVICE, AnySplit, Split, split_named
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
    folder: Path,
    split: Split,
    *,
    size: Size | None,
    max_skipped: float,
    progress: bool,
    group_by: str | None = None,
) -> ImageDataset:
    """Read all images of one split in ``folder``, in the order of their paths.

    Subfolders named as in :mod:`repzoo_training.data.splits` are splits. Images of a test or
    validation folder at any depth are never in the train split. Without a test split, the
    validation split takes its place. If every image of a split is in a subfolder, and there are at
    least two subfolders, their names are the classes. Both splits use the class numbers of the
    train split. With ``group_by="folder"``, the images of one folder are a group.

    Raises:
        DataError: If the folder has no images of the split, too many cannot be read, or they are
            grouped by something else.
    """
    if group_by not in (None, "folder"):
        raise DataError(
            f"{folder} is a folder of image files: they can be grouped by folder, not by {group_by}"
        )
    entries = list(walk(folder))
    files, assigned = _assign(
        [e for e in entries if is_image_name(e.path) or (e.error and e.path.endswith("/"))]
    )
    if not files:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no images found in {folder} (supported: {suffixes})")
    mine = [file for file in files if file.split == split]
    if split == "test" and not mine:
        mine = [file for file in files if file.split == "validation"]
    splits: dict[str, int] = dict(Counter(file.split for file in files))
    if not mine:
        found = ", ".join(f"{name} ({number:,} images)" for name, number in splits.items())
        raise DataError(f"{folder} has no {split} split, only {found}: {ADVICE[split]}")

    classes = _classes(file for file in files if file.split == "train") or _classes(mine)
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [file.entry.path for file in mine if file.label not in numbers]
    if classes and len(unknown) == len(mine) and not _classes(mine):  # a flat test folder
        assigned.append(f"the {split} images are not in class folders, so they have no labels")
        classes = ()
    elif classes and unknown:
        raise DataError(
            f"{folder}/{printable_path(unknown[0])} is in none of the {len(classes)} class folders "
            f"of the train split: {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"
        )
    contents = np.zeros(len(mine), "V32")

    def open_image(index: int) -> Image.Image:
        entry = mine[index].entry
        if entry.error is not None:
            raise entry.error
        data = (folder / entry.path).read_bytes()
        contents[index] = hashlib.sha256(data).digest()
        return decode(data, spec)

    name = printable_path(folder.resolve().name)
    spec = None if size is None else input_spec(size)
    stacked = stack_pixels(
        len(mine),
        open_image,
        lambda index: printable_path(str(folder / mine[index].entry.path)),
        name=name,
        size=size,
        max_skipped=max_skipped,
        progress=progress,
    )
    labels = None
    if classes:
        labels = np.array([numbers[mine[index].label] for index in stacked.kept], np.int64)
    groups = None
    if group_by is not None:
        homes = [str(PurePath(mine[index].entry.path).parent) for index in stacked.kept]
        groups = np.unique(homes, return_inverse=True)[1].astype(np.int64)
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
        splits={**splits, mine[0].split: len(stacked.kept)},
        notes=(*(f"{folder}: {note}" for note in assigned), *notes, *stacked.notes),
        skipped=stacked.skipped,
        contents=contents[list(stacked.kept)],
        groups=groups,
    )


def _assign(entries: list[FolderEntry]) -> tuple[list[_ImageFile], list[str]]:
    """Find the split and the class folder of every image, and describe what may surprise.

    A folder with the name of a test or validation split is one, at any depth. A folder called train
    is a split if there is another split next to it, or if nothing is next to it: it may hold
    pictures of trains. What is next to a train split is not used. ``train/cat/1.png``,
    ``cat/train/1.png`` and ``download/train/cat/1.png`` are the same.
    """
    paths = [tuple(entry.path.split("/")) for entry in entries]
    names: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths:
        for depth, name in enumerate(path):
            names[path[:depth]].add(name if depth < len(path) - 1 else "")
    train_at = {above for above, found in names.items() if _has_train_split(found)}

    files: list[tuple[FolderEntry, AnySplit, list[str]]] = []
    unused, apart = 0, Counter[str]()
    for entry, path in zip(entries, paths, strict=True):
        splits: list[AnySplit] = []
        rest, beside = [], False
        for depth, name in enumerate(path[:-1]):
            named = split_named(name)
            if named is None or (named == "train" and path[:depth] not in train_at):
                rest.append(name)
                beside |= path[:depth] in train_at
            else:
                splits.append(named)
        beside |= path[:-1] in train_at
        kept_apart = [split for split in splits if split != "train"]
        if kept_apart:
            files.append((entry, kept_apart[0], rest))
            if not train_at:
                apart[kept_apart[0]] += 1
        elif beside and not splits:
            unused += 1
        else:
            files.append((entry, "train", rest))
    notes = [f"{unused:,} images outside of the splits are not used"] if unused else []
    for split, count in apart.items():
        notes.append(
            f"{count:,} images are in folders with the name of a {split} split, and are not "
            "trained on"
        )
    if train_at or apart:  # a folder that only wraps the splits is not a class
        while all(rest for _, _, rest in files) and len({rest[0] for _, _, rest in files}) == 1:
            for _, _, rest in files:
                del rest[0]
    return [
        _ImageFile(entry, split, rest[0] if rest else "") for entry, split, rest in files
    ], notes


def _has_train_split(names: set[str]) -> bool:
    """Return whether a folder with subfolders ``names`` (and "" for images) has a train split."""
    splits = {split_named(name) for name in names}
    return "train" in splits and (len(splits - {None}) > 1 or splits == {"train"})


def _classes(files: Iterable[_ImageFile]) -> tuple[str, ...]:
    """Return the sorted class folders, if all images are in two or more of them."""
    names = {file.label for file in files}
    return tuple(sorted(names)) if "" not in names and len(names) > 1 else ()
