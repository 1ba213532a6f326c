"""Images in memory as uint8, from all sources that training and evaluation can read.

>>> from repzoo_training.data import load
>>> train = load("photos/", size=(64, 64, 3))        # a folder of images
>>> test = load("tests/data/mnist", "test")          # a parquet folder, as on the Hub
>>> digits = load("mnist")                           # downloaded by torchvision
"""

from __future__ import annotations

from repzoo_training.data.dataset import ImageDataset
from repzoo_training.data.held_out import with_split
from repzoo_training.data.sources import (
    absolute,
    has_test,
    load,
    load_splits,
    load_with_test,
)
from repzoo_training.data.splits import Split

__all__ = [
    "ImageDataset",
    "Split",
    "absolute",
    "has_test",
    "load",
    "load_splits",
    "load_with_test",
    "with_split",
]
