"""Public data sets by name, downloaded by torchvision."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image
from repzoo.cache.places import default_cache

from repzoo_training.data.dataset import ImageDataset
from repzoo_training.data.pixels import Size, input_spec, stack_pixels
from repzoo_training.data.splits import Split
from repzoo_training.errors import DataError

__all__ = ["PUBLIC_DATASETS", "data_root", "load_public"]

#: The names of data sets, and their classes in torchvision.
PUBLIC_DATASETS = {"cifar10": "CIFAR10", "fashion-mnist": "FashionMNIST", "mnist": "MNIST"}


def data_root() -> Path:
    """Return the folder for downloads: ``REPZOO_DATA``, or else ``data`` in repzoo's cache."""
    if root := os.environ.get("REPZOO_DATA"):
        return Path(root).expanduser()
    return default_cache() / "data"


def load_public(name: str, split: Split, *, size: Size | None, progress: bool) -> ImageDataset:
    """Load a data set of :data:`PUBLIC_DATASETS`, and download it on first use.

    Raises:
        DataError: If the data set cannot be downloaded, or its files are damaged.
    """
    from torchvision import datasets  # takes seconds, and other sources do not need it

    root = data_root()
    public = getattr(datasets, PUBLIC_DATASETS[name])
    try:
        dataset = public(root, train=split == "train", download=True)
    # A failed download raises one of the first two; damaged files raise any of these.
    except (OSError, RuntimeError, AssertionError, EOFError, ValueError) as error:
        raise DataError(
            f"{name} is not in {root} and cannot be downloaded, or its files are damaged: "
            f"{_one_line(error)}; set REPZOO_DATA to a folder that contains it, or use a folder of "
            "images or parquet files instead"
        ) from error
    images = np.asarray(dataset.data, np.uint8)
    images = images.reshape(*images.shape[:3], -1)  # [N, H, W] and [N, H, W, C] -> [N, H, W, C]
    if size is not None and input_spec(size).shape != images.shape[1:]:
        images = stack_pixels(
            len(images),
            lambda index: Image.fromarray(images[index].squeeze()),
            lambda index: f"{name} image {index}",
            name=name,
            size=size,
            max_skipped=0,
            progress=progress,
        ).pixels
    return ImageDataset(
        name=name,
        images=np.ascontiguousarray(images),
        labels=np.asarray(dataset.targets, np.int64),
        # torchvision calls the digits "0 - zero"
        classes=tuple(c.split(" - ")[0] for c in dataset.classes),
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
