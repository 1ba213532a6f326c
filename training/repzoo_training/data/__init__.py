"""Images in memory as uint8, from every source that training and evaluation read.

>>> from repzoo_training.data import load
>>> train = load("photos/", size=(64, 64, 3))        # a folder of images
>>> test = load("tests/data/mnist", "test")          # a parquet folder of HF datasets
>>> digits = load("mnist")                           # downloaded by torchvision
"""

from __future__ import annotations

from repzoo_training.data.dataset import ImageDataset, Split
from repzoo_training.data.sources import absolute, load

__all__ = ["ImageDataset", "Split", "absolute", "load"]
