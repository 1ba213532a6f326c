"""Which file names count as images, for `zoo embed`, `zoo index` and `zoo train` alike.

A name only decides whether a file of a folder is opened. What it holds is decided by its bytes, in
`repzoo.runtime.images.decode`.
"""

from __future__ import annotations

from pathlib import PurePath

__all__ = ["IMAGE_SUFFIXES", "is_hidden", "is_image_name"]

#: The suffixes of the formats that `repzoo.runtime.images.FORMATS` lists, in lower case.
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("avif", "bmp", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)


def is_image_name(name: str) -> bool:
    """Return whether a file name or path has an image suffix, in upper or lower case."""
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is skipped: ``.*`` and macOS's ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"
