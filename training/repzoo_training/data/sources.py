"""``load``: from the value of ``--data`` to images in memory."""

from __future__ import annotations

import logging
from pathlib import Path

from repzoo.bulk.folders import printable_path
from repzoo.bulk.skipping import MAX_SKIPPED

from repzoo_training.data.dataset import ImageDataset
from repzoo_training.data.folders import load_image_folder
from repzoo_training.data.held_out import select, separate
from repzoo_training.data.parquet import is_parquet_folder, load_parquet_folder
from repzoo_training.data.pixels import Size
from repzoo_training.data.public import PUBLIC_DATASETS, load_public
from repzoo_training.data.splits import Split
from repzoo_training.errors import DataError

__all__ = ["absolute", "has_test", "load", "load_splits", "load_with_test"]

_PREFIX = "torchvision:"
_log = logging.getLogger(__name__)


def load(
    source: str | Path,
    split: Split = "train",
    *,
    size: Size | None = None,
    max_skipped: float = MAX_SKIPPED,
    progress: bool = True,
    group_by: str | None = None,
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
    any folder, and ``#split=0.1:7``            10 % of its images, by seed 7, as the test split
    ==========================================  ================================================

    Images of a test or validation split are never in the train split. Without a test split, the
    validation split takes its place.

    A bare name always means the public data set, even if a folder of that name exists. Write
    ``./mnist`` for the folder.

    Images that cannot be read are skipped, up to ``max_skipped``, or one. Labels that cannot
    be used are ignored. Both are logged as warnings, and listed in the ``notes`` of the result.

    Args:
        source: One of the above.
        split: ``"train"`` or ``"test"``.
        size: ``(H, W, C)`` to resize and convert every image to, with repzoo's common
            preprocessing, or the ``config.input`` of a package, with its preprocessing. None keeps
            the size of the images, which must all be equal. For ``(H, W, C)``, JPEG files are
            decoded at a half, a quarter or an eighth of their size, if both sides stay at least
            twice as long as H and W.
        max_skipped: The share of images that may be skipped because they cannot be read; 0: none.
        progress: Show progress bars, on a terminal only, and log warnings.
        group_by: What says which images show the same thing: ``"folder"`` for a folder of images,
            or a column of parquet files.

    Raises:
        DataError: If the source, the split or the column does not exist, or too many images cannot
            be read. The message contains the file, and the row if there is one.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: expected 'train' or 'test'")
    source, held_out = separate(str(source))
    if held_out is None and (name := source.removeprefix(_PREFIX)) in PUBLIC_DATASETS:
        if group_by is not None:
            raise DataError(f"{name} is a public data set, whose images cannot be grouped")
        return load_public(name, split, size=size, progress=progress)
    if held_out is not None:
        whole = load(
            source,
            "train",
            size=size,
            max_skipped=max_skipped,
            progress=progress,
            group_by=group_by,
        )
        return select(whole, split, held_out)
    if not source:
        raise DataError("the source of images is empty: give a folder or the name of a data set")
    folder = Path(source).expanduser()
    if folder.is_file():
        raise DataError(f"{source} is a file: use the folder that contains it")
    if not folder.is_dir():
        names = ", ".join(sorted(PUBLIC_DATASETS))
        raise DataError(f"{source} is neither a folder nor one of {names}")
    load_folder = load_parquet_folder if is_parquet_folder(folder) else load_image_folder
    dataset = load_folder(
        folder, split, size=size, max_skipped=max_skipped, progress=progress, group_by=group_by
    )
    if progress:
        for note in dataset.notes:
            _log.warning("%s", note)
    return dataset


def load_splits(
    source: str | Path,
    *,
    size: Size | None = None,
    max_skipped: float = MAX_SKIPPED,
    progress: bool = True,
) -> tuple[ImageDataset, ImageDataset]:
    """Read the train and the test split of ``source``, with the arguments of :func:`load`.

    A source of which a share is held out is read once.

    Raises:
        DataError: Like :func:`load`; before any image is read if there is no test split.
    """

    def read(source: str | Path, split: Split) -> ImageDataset:
        return load(source, split, size=size, max_skipped=max_skipped, progress=progress)

    path, held_out = separate(str(source))
    if held_out is None:
        test = read(source, "test")
        return read(source, "train"), test
    whole = read(path, "train")
    return select(whole, "train", held_out), select(whole, "test", held_out)


def load_with_test(
    source: str | Path,
    *,
    size: Size | None = None,
    max_skipped: float = MAX_SKIPPED,
    group_by: str | None = None,
) -> tuple[ImageDataset, ImageDataset | None]:
    """Like :func:`load_splits`, but with None for the test split of a source without one.

    The images are those to fit something to, and those to measure it with. Only the former are
    grouped.
    """
    path, held_out = separate(str(source))
    train = load(path, "train", size=size, max_skipped=max_skipped, group_by=group_by)
    if held_out is not None:
        return select(train, "train", held_out), select(train, "test", held_out)
    if not has_test(path, train):
        return train, None
    return train, load(path, "test", size=size, max_skipped=max_skipped)


def absolute(source: str | Path) -> str:
    """Return ``source`` independent of the working folder: names are kept, paths become absolute.

    Raises:
        DataError: If the path is not valid UTF-8, because a run records it as text.
    """
    if separate(str(source))[0].removeprefix(_PREFIX) in PUBLIC_DATASETS:
        return str(source)
    path = str(Path(source).expanduser().absolute())
    if not path.isascii() and printable_path(path) != path:
        raise DataError(
            f"{printable_path(path)}: the path is not valid UTF-8, and cannot be recorded in a "
            "run: rename it, or make a symbolic link to it"
        )
    return path


def has_test(source: str | Path, dataset: ImageDataset) -> bool:
    """Return whether ``source`` has images to measure with, besides the train split ``dataset``."""
    if str(source).removeprefix(_PREFIX) in PUBLIC_DATASETS:
        return True
    return bool({"test", "validation"} & dataset.splits.keys())
