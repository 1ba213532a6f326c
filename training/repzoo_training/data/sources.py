"""``load``: from the value of ``--data`` to images in memory."""

from __future__ import annotations

import logging
from pathlib import Path

from repzoo.bulk.folders import printable_path

from repzoo_training.data.dataset import ImageDataset
from repzoo_training.data.folders import load_image_folder
from repzoo_training.data.parquet import is_parquet_folder, load_parquet_folder
from repzoo_training.data.pixels import Size
from repzoo_training.data.public import PUBLIC_DATASETS, load_public
from repzoo_training.data.splits import Split
from repzoo_training.errors import DataError

__all__ = ["absolute", "load"]

_PREFIX = "torchvision:"
_log = logging.getLogger(__name__)


def load(
    source: str | Path,
    split: Split = "train",
    *,
    size: Size | None = None,
    strict: bool = False,
    progress: bool = True,
) -> ImageDataset:
    """Read all images of one split of ``source`` into memory.

    ==========================================  ================================================
    source                                      meaning
    ==========================================  ================================================
    ``mnist``, ``fashion-mnist``, ``cifar10``   downloaded by torchvision into ``REPZOO_DATA``;
                                                ``torchvision:mnist`` is the same
    a folder with ``train-*.parquet``           Hugging Face ``datasets``, with labels or bool
                                                attributes; also ``default/train/0000.parquet``
    a folder of images                          at any depth; subfolders are classes, except
                                                those named ``train``, ``Testing``, ``val``, ...
    ==========================================  ================================================

    A bare name always means the public data set, even if a folder of that name exists. Write
    ``./mnist`` for the folder.

    Images that cannot be read are skipped, up to 5 % of the split, or one image. Labels that cannot
    be used are ignored. Both are logged as warnings, and listed in the ``notes`` of the result.

    Args:
        source: One of the above.
        split: ``"train"`` or ``"test"``.
        size: ``(H, W, C)`` to resize and convert every image to, with repzoo's common
            preprocessing. None keeps the size of the images, which must all be equal.
        strict: Raise an error if any image cannot be read, instead of skipping images.
        progress: Show progress bars, on a terminal only, and log warnings.

    Raises:
        DataError: If the source or the split does not exist, or too many images cannot be read. The
            message contains the file, and the row if there is one.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: expected 'train' or 'test'")
    if (name := str(source).removeprefix(_PREFIX)) in PUBLIC_DATASETS:
        return load_public(name, split, size=size, progress=progress)
    if not str(source):
        raise DataError("the source of images is empty: give a folder or the name of a data set")
    folder = Path(source).expanduser()
    if folder.is_file():
        raise DataError(f"{source} is a file: use the folder that contains it")
    if not folder.is_dir():
        names = ", ".join(sorted(PUBLIC_DATASETS))
        raise DataError(f"{source} is neither a folder nor one of {names}")
    load_folder = load_parquet_folder if is_parquet_folder(folder) else load_image_folder
    dataset = load_folder(folder, split, size=size, strict=strict, progress=progress)
    if progress:
        for note in dataset.notes:
            _log.warning("%s", note)
    return dataset


def absolute(source: str | Path) -> str:
    """Return ``source`` independent of the working folder: names are kept, paths become absolute.

    Raises:
        DataError: If the path is not valid UTF-8, because a run records it as text.
    """
    if str(source).removeprefix(_PREFIX) in PUBLIC_DATASETS:
        return str(source)
    path = str(Path(source).expanduser().absolute())
    if not path.isascii() and printable_path(path) != path:
        raise DataError(
            f"{printable_path(path)}: the path is not valid UTF-8, and cannot be recorded in a "
            "run: rename it, or make a symbolic link to it"
        )
    return path
