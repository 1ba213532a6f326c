"""``load``: from what a user writes after ``--data`` to images in memory."""

from __future__ import annotations

from pathlib import Path

from repzoo_training.data.dataset import ImageDataset, Split
from repzoo_training.data.parquet import is_parquet_folder, load_parquet_folder
from repzoo_training.data.pixels import Size
from repzoo_training.errors import DataError

__all__ = ["load"]


def load(
    source: str | Path,
    split: Split = "train",
    *,
    size: Size | None = None,
    progress: bool = True,
) -> ImageDataset:
    """Read every image of one split of ``source`` into memory.

    Args:
        source: a parquet folder of Hugging Face ``datasets`` (``train-*.parquet``).
        split: ``"train"`` or ``"test"``.
        size: ``(H, W, C)`` that every image is resized and converted to, through the same
            preprocessing as everywhere in repzoo; None keeps the images' own size, which must
            be one for all.
        progress: show progress bars, on a terminal only.

    Raises:
        DataError: if the source is not there, has no such split, or holds anything that cannot
            be used; the message names the file, and the row where there is one.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"{source} is neither a folder nor a known data set")
    if is_parquet_folder(folder):
        return load_parquet_folder(folder, split, size=size, progress=progress)
    raise DataError(f"no images found in {folder}")
