"""Many images of one source -> one uint8 array."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from repzoo.errors import InvalidImage
from repzoo.packages.config import InputSpec
from repzoo.runtime.images import Pixels, preprocess
from tqdm import tqdm

from repzoo_training.errors import DataError

__all__ = ["Size", "stack_pixels"]

#: Height, width and channels (1 grey or 3 RGB).
Size = tuple[int, int, int]

#: From this many pixels on, images are decoded in a pool of threads. Below, decoding is mostly
#: Python, and threads that fight for its lock take 1.8 times as long as one does (28 x 28 PNG, two
#: cores); at 109 x 89 (JPEG) they begin to help.
_THREADED_PIXELS = 64 * 64

#: Images that one task of the pool decodes.
_CHUNK = 64

#: Bad images that an error names; it counts the others.
_NAMED = 5


def stack_pixels(
    count: int,
    open_image: Callable[[int], Image.Image],
    place: Callable[[int], str],
    *,
    name: str,
    size: Size | None,
    progress: bool,
) -> Pixels:
    """Decode ``count`` images into one array, uint8 ``[N, H, W, C]``.

    With ``size`` every image goes through ``repzoo.runtime.images.preprocess`` to that size. Without it
    the images must agree in height and width, and the result is grey only if all of them are.

    Args:
        count: number of images N, at least 1.
        open_image: gives the i-th image, upright and of mode L or RGB as ``repzoo.runtime.images.decode``
            returns it; called from several threads. InvalidImage and OSError say what is wrong.
        place: says where the i-th image is, for errors.
        name: what is being read, for the progress bar.
        size: ``(H, W, C)`` to resize and convert to.
        progress: show a bar, on a terminal only.

    Raises:
        DataError: naming the images that cannot be decoded, or else those that differ in size.
    """
    spec = None if size is None else _spec(size)

    def read(index: int) -> Pixels | str:
        try:
            image = open_image(index)
            return preprocess(image, spec) if spec else _as_it_is(image)
        except InvalidImage as error:
            return f"{place(index)}: {error.detail}"
        except OSError as error:
            return f"{place(index)}: {error.strerror or error}"

    stacked: Pixels | None = None
    unreadable: list[str] = []
    misfits: list[str] = []
    hidden = None if progress else True  # None: hidden unless on a terminal
    results = _map(read, count)
    for index, pixels in enumerate(tqdm(results, name, count, unit=" images", disable=hidden)):
        if isinstance(pixels, str):
            unreadable.append(pixels)
            continue
        if stacked is None:
            stacked = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape[:2] != stacked.shape[1:3]:
            misfits.append(f"{place(index)} is {_size_text(pixels.shape)}")
            continue
        if pixels.shape[2] > stacked.shape[3]:  # the first colour image after grey ones
            stacked = np.repeat(stacked, pixels.shape[2], axis=3)
        stacked[index] = pixels  # [H, W, 1] broadcasts over three channels
    if unreadable or stacked is None:
        found = f"{len(unreadable)} of {count} images cannot be read"
        raise DataError(_listed(found, unreadable))
    if misfits:
        found = (
            f"{len(misfits)} of {count} images differ in size from {place(0)}, which is "
            f"{_size_text(stacked.shape[1:])}; give the size that all are to be resized to"
        )
        raise DataError(_listed(found, misfits))
    return stacked


def _map(read: Callable[[int], Pixels | str], count: int) -> Iterator[Pixels | str]:
    """``read`` of 0, 1, ..., in order."""
    first = read(0)
    yield first
    if isinstance(first, str) or first.shape[0] * first.shape[1] < _THREADED_PIXELS:
        yield from map(read, range(1, count))
        return

    def read_chunk(start: int) -> Sequence[Pixels | str]:
        return [read(index) for index in range(start, min(start + _CHUNK, count))]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in pool.map(read_chunk, range(1, count, _CHUNK)):
            yield from chunk


def _spec(size: Size) -> InputSpec:
    try:
        return InputSpec.model_validate(
            dict(zip(("height", "width", "channels"), size, strict=True))
        )
    except ValueError as error:
        raise DataError(
            f"size is {size}; expected (height, width, channels) with 1 or 3 channels"
        ) from error


def _as_it_is(image: Image.Image) -> Pixels:
    return np.asarray(image, np.uint8).reshape(image.height, image.width, -1)


def _size_text(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _listed(found: str, problems: list[str]) -> str:
    shown = "".join(f"\n  {problem}" for problem in problems[:_NAMED])
    rest = len(problems) - _NAMED
    return f"{found}:{shown}" + (f"\n  and {rest} more" if rest > 0 else "")
