"""The common result of all sources: an array of pixels, with labels and attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageDataset"]

#: How many classes a summary lists.
_LISTED = 12


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """N images in memory, C-contiguous, in the order of their source.

    Attributes:
        name: The name of the source, for cards and reports.
        images: uint8 ``[N, H, W, C]``, C = 1 (grey) or 3 (RGB).
        labels: int64 ``[N]`` in ``[0, len(classes))``, or None.
        classes: The names of the labels; empty without labels.
        attributes: bool ``[N, A]``, or None.
        attribute_names: The A names; empty without attributes.
        groups: The thing that each image shows, int64 ``[N]`` from 0 on, or None if unknown.
        splits: The number of images in each split of the source; empty if unknown. Other splits
            than this one may include images that cannot be read.
        notes: What was not used, and why; one sentence each.
        skipped: The images that could not be read, and why.
        contents: The sha256 of each encoded file, void ``[N]`` of 32 bytes, or None if unknown.
        sha256: Hex digest of shape, pixels, labels and attributes. The same content has the same
            digest for every source.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    attributes: NDArray[np.bool_] | None = None
    attribute_names: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    contents: NDArray[np.void] | None = None
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", _digest(self.images, self.labels, self.attributes))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(H, W, C)`` of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def take(self, rows: NDArray[np.bool_], splits: Mapping[str, int]) -> ImageDataset:
        """Return the images where ``rows``, bool ``[N]``, is true, as a data set of ``splits``."""
        return replace(
            self,
            images=self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
            attributes=None if self.attributes is None else self.attributes[rows],
            contents=None if self.contents is None else self.contents[rows],
            groups=None if self.groups is None else self.groups[rows],
            splits=splits,
        )

    def summary(self) -> str:
        """Describe what was found in one line: images, splits, classes and attributes."""
        height, width, channels = self.shape
        images = "1 image" if len(self) == 1 else f"{len(self):,} images"
        text = f"{self.name}: {images}, {height}×{width}×{channels}"
        if self.splits:
            order = ("train", "test", "validation", *self.splits)
            text += f"; splits: {_counts({k: self.splits[k] for k in order if k in self.splits})}"
        if self.labels is not None:
            counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
            listed = dict(list(zip(self.classes, counts, strict=True))[:_LISTED])
            more = ", ..." if len(self.classes) > _LISTED else ""
            text += f"; {len(self.classes)} classes: {_counts(listed)}{more}"
        if self.attribute_names:
            text += f"; {len(self.attribute_names)} attributes"
        if self.groups is not None:
            text += f"; {len(np.unique(self.groups)):,} groups"
        if self.labels is None and not self.attribute_names:
            text += "; no labels"
        return text


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())


def _digest(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    attributes: NDArray[np.bool_] | None,
) -> str:
    digest = hashlib.sha256()
    for array, dtype in ((images, "u1"), (labels, "<i8"), (attributes, "?")):
        if array is None:
            digest.update(b"-")
            continue
        digest.update(repr((dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array, dtype).data)
    return digest.hexdigest()
