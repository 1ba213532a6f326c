"""Folders of image files, with or without class subfolders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from repzoo.runtime.images import decode

from repzoo_training.data.dataset import ImageDataset, Split
from repzoo_training.data.pixels import Size, stack_pixels
from repzoo_training.errors import DataError

__all__ = ["load_image_folder"]

#: File names that are taken for images; all others are passed over.
_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

#: Names of subfolders that hold splits, where nothing else lies beside them.
_SPLITS = frozenset({"train", "test", "val", "valid", "validation"})


class _Tree(NamedTuple):
    """The images of one split: their paths, sorted, all below ``root``."""

    root: Path
    paths: list[Path]

    def subfolder(self, path: Path) -> str:
        """The subfolder of ``root`` that ``path`` lies in; empty for an image right in ``root``."""
        parts = path.relative_to(self.root).parts
        return parts[0] if len(parts) > 1 else ""

    def classes(self) -> tuple[str, ...]:
        """The names of the subfolders, if all images lie in two or more of them."""
        names = {self.subfolder(path) for path in self.paths}
        return tuple(sorted(names)) if "" not in names and len(names) > 1 else ()


def load_image_folder(
    folder: Path, split: Split, *, size: Size | None, progress: bool
) -> ImageDataset:
    """Read all images under ``folder``, in the order of their paths.

    ``folder/train`` and ``folder/test`` are the splits; a folder without them is a train split.
    Where every image of a split lies in a subfolder, and there are two of these or more, their
    names are the classes. The train split's classes number those of both splits.

    Links are followed, loops among them cut; hidden files and folders, and files whose names do
    not end like an image's, are passed over.

    Raises:
        DataError: naming the folder without images, or the files that cannot be read.
    """
    splits = _splits(_Tree(folder, _image_paths(folder)))
    if split not in splits:
        raise DataError(f"{folder} has no {split} split: no images in {folder / split}")
    tree = splits[split]
    if not tree.paths:
        suffixes = " ".join(sorted(_SUFFIXES))
        raise DataError(f"no images found in {folder} (looked for {suffixes})")

    classes = splits.get("train", tree).classes() or tree.classes()
    numbers = {name: number for number, name in enumerate(classes)}
    strangers = [path for path in tree.paths if tree.subfolder(path) not in numbers]
    if classes and strangers:
        raise DataError(
            f"{strangers[0]} is in none of the {len(classes)} class folders of the train split: "
            f"{', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"
        )

    name = folder.resolve().name
    images = stack_pixels(
        len(tree.paths),
        lambda index: decode(tree.paths[index].read_bytes()),
        lambda index: str(tree.paths[index]),
        name=name,
        size=size,
        progress=progress,
    )
    labels = [numbers[tree.subfolder(path)] for path in tree.paths] if classes else None
    return ImageDataset(
        name=name,
        images=images,
        labels=None if labels is None else np.array(labels, np.int64),
        classes=classes,
    )


def _splits(tree: _Tree) -> dict[str, _Tree]:
    """Tell splits from classes: a folder of trains is not a train split."""
    names = {tree.subfolder(path) for path in tree.paths}
    if not ({"train", "test"} <= names or (names & {"train", "test"} and names <= _SPLITS)):
        return {"train": tree}
    return {
        name: _Tree(tree.root / name, [p for p in tree.paths if tree.subfolder(p) == name])
        for name in names & {"train", "test"}
    }


def _image_paths(root: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for directory, subfolders, files in os.walk(root, followlinks=True):
        status = Path(directory).stat()
        if (status.st_dev, status.st_ino) in seen:  # reached before: a loop of links, or a twin
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not _hidden(name))
        found += [
            Path(directory, name)
            for name in files
            if not _hidden(name) and Path(name).suffix.lower() in _SUFFIXES
        ]
    return sorted(found)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
