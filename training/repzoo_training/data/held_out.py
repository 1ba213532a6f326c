"""Hold out part of a source without a test split: ``--split 0.1``.

Which images are held out depends on the contents of their files and on a seed. Renaming, moving or
resizing images does not change it, and copies of one file are never on both sides.

A source and its split are written as one text, ``photos#split=0.1:7``. A run records that, so that
every later command holds out the same images.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repzoo_training.data.dataset import ImageDataset
from repzoo_training.data.splits import Split
from repzoo_training.errors import DataError

__all__ = ["HeldOut", "select", "separate", "with_split"]

_FORM = re.compile(r"(\d*\.?\d+)(?::(\d{1,9}))?")
_MARK = "#split="


class HeldOut(NamedTuple):
    """A share of the images in (0, 1), and a seed."""

    share: float
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> HeldOut:
        """Parse ``SHARE`` or ``SHARE:SEED``.

        Raises:
            DataError: If the text has another form, or the share is not between 0 and 1.
        """
        match = _FORM.fullmatch(text)
        if match is None or not 0 < float(match[1]) < 1:
            raise DataError(
                f"the split is {text!r}: expected a share of the images between 0 and 1, and a "
                "seed if you like, such as 0.1 or 0.1:7"
            )
        return cls(float(match[1]), int(match[2] or 0))


def with_split(source: str, split: str | None) -> str:
    """Return the text for a source with a split, or the source itself for None.

    Raises:
        DataError: If the split is not valid, or the source has one already.
    """
    if split is None:
        return source
    HeldOut.parse(split)
    if _MARK in source:
        raise DataError(f"{source} already has a split: leave out --split")
    return f"{source}{_MARK}{split}"


def separate(source: str) -> tuple[str, HeldOut | None]:
    """Separate a source and its split, if it has one.

    Raises:
        DataError: If the split is not valid.
    """
    path, mark, text = source.rpartition(_MARK)
    return (path, HeldOut.parse(text)) if mark else (source, None)


def select(dataset: ImageDataset, split: Split, held_out: HeldOut) -> ImageDataset:
    """Return the held-out images as the test split, or the others as the train split.

    Of every class with at least two images, the share is held out, and at least one image.

    Raises:
        DataError: If the source has a test split already, or a split would be empty.
    """
    if there := {"test", "validation"} & dataset.splits.keys():
        raise DataError(
            f"{dataset.name} already has a {min(there)} split, which is not trained on: leave out "
            "--split"
        )
    if dataset.contents is None:
        raise DataError(
            f"{dataset.name} is a public data set with its own test split: leave out --split"
        )
    test = _held_out(dataset.contents, dataset.labels, held_out)
    if test.all() or not test.any():
        raise DataError(
            f"{dataset.name} has too few different images for a test split: {len(dataset)}"
        )
    rows = test if split == "test" else ~test
    count = int(test.sum())
    return dataset.take(rows, {"train": len(dataset) - count, "test": count})


def _held_out(
    contents: NDArray[np.void], labels: NDArray[np.int64] | None, held_out: HeldOut
) -> NDArray[np.bool_]:
    """Return which images are held out, bool ``[N]``, from ``[N]`` digests."""
    seed = f"{held_out.seed}:".encode()
    keys = np.array([hashlib.sha256(seed + content.tobytes()).hexdigest() for content in contents])
    groups = np.zeros(len(keys), np.int64) if labels is None else labels
    chosen: set[str] = set()
    for group in np.unique(groups):
        members = np.sort(keys[groups == group])
        if len(members) > 1:
            chosen.update(members[: max(1, round(held_out.share * len(members)))])
    # By content, so that copies in other classes are held out as well.
    return np.isin(keys, list(chosen))
