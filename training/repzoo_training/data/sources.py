"""``load``: from what a user writes after ``--data`` to images in memory."""

from __future__ import annotations

from pathlib import Path

from repzoo_training.data.dataset import ImageDataset, Split
from repzoo_training.data.folders import load_image_folder
from repzoo_training.data.parquet import is_parquet_folder, load_parquet_folder
from repzoo_training.data.pixels import Size
from repzoo_training.data.public import PUBLIC_DATASETS, load_public
from repzoo_training.errors import DataError

__all__ = ["absolute", "load"]

_PREFIX = "torchvision:"


def load(
    source: str | Path,
    split: Split = "train",
    *,
    size: Size | None = None,
    progress: bool = True,
) -> ImageDataset:
    """Read every image of one split of ``source`` into memory.

    ==========================================  ================================================
    source                                      what it is
    ==========================================  ================================================
    ``mnist``, ``fashion-mnist``, ``cifar10``   downloaded by torchvision into ``REPZOO_DATA``;
                                                ``torchvision:mnist`` is the same
    a folder with ``train-*.parquet``           Hugging Face ``datasets``, labels or bool
                                                attributes
    a folder of images                          any depth; subfolders are classes, unless they
                                                are ``train`` and ``test``
    ==========================================  ================================================

    A bare name is the public data set even where a folder of that name lies; write ``./mnist``
    for the folder.

    Args:
        source: one of the above.
        split: ``"train"`` or ``"test"``.
        size: ``(H, W, C)`` that every image is resized and converted to, by the preprocessing that
            all of repzoo shares; None keeps the images' own size, which must be one for all.
        progress: show progress bars, on a terminal only.

    Raises:
        DataError: if the source is not there, lacks the split, or holds anything that cannot be
            used; the message names the file, and the row where there is one.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: expected 'train' or 'test'")
    if (name := str(source).removeprefix(_PREFIX)) in PUBLIC_DATASETS:
        return load_public(name, split, size=size, progress=progress)
    folder = Path(source).expanduser()
    if folder.is_file():
        raise DataError(f"{source} is a file; give the folder that it lies in")
    if not folder.is_dir():
        names = ", ".join(sorted(PUBLIC_DATASETS))
        raise DataError(f"{source} is neither a folder nor one of {names}")
    if is_parquet_folder(folder):
        return load_parquet_folder(folder, split, size=size, progress=progress)
    return load_image_folder(folder, split, size=size, progress=progress)


def absolute(source: str | Path) -> str:
    """``source`` as it is found from any working folder: names stay, paths become absolute."""
    if str(source).removeprefix(_PREFIX) in PUBLIC_DATASETS:
        return str(source)
    return str(Path(source).expanduser().absolute())
