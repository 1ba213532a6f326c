"""The fixed validation split: what is chosen is chosen on it, never on test images."""

from __future__ import annotations

import numpy as np

from repzoo_training.data import ImageDataset

__all__ = ["held_out_tenth"]


def held_out_tenth(train: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """Split training images into (nine tenths, every tenth image), both in their order.

    The split depends on the order of the source alone, so that it is the same for every experiment.
    """
    held_out = np.arange(len(train)) % 10 == 9
    return train.take(~held_out, {}), train.take(held_out, {})
