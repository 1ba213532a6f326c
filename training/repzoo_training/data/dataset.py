"""What a source becomes: one array of pixels, with what is known about its images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageDataset", "Split"]

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """N images in memory, C-contiguous, in the order of their source.

    Attributes:
        name: what the source is called, for cards and reports.
        images: uint8 ``[N, H, W, C]``, C = 1 (grey) or 3 (RGB).
        labels: int64 ``[N]`` in ``[0, len(classes))``, or None.
        classes: the names of the labels; empty without labels.
        attributes: bool ``[N, A]``, or None.
        attribute_names: the A names; empty without attributes.
        sha256: hex digest of shape, pixels, labels and attributes. The same content has the same
            digest whichever source it came from.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    attributes: NDArray[np.bool_] | None = None
    attribute_names: tuple[str, ...] = ()
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
