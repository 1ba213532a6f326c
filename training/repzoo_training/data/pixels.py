"""Many images of one source -> one uint8 array."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from repzoo.config import InputSpec
from tqdm import tqdm

from repzoo_training.errors import DataError

__all__ = ["Size", "stack_pixels"]

#: Height, width and channels (1 grey or 3 RGB).
Size = tuple[int, int, int]

Pixels = NDArray[np.uint8]

#: From this many pixels on, images are decoded in a pool of threads. Below, decoding is mostly
#: Python, and threads that fight for its lock take 1.8 times as long as one does (28 x 28 PNG, two
#: cores); at 109 x 89 (JPEG) they begin to help.
_THREADED_PIXELS = 64 * 64

#: Images that one task of the pool decodes.
_CHUNK = 64

#: Bad images that an error names; it counts the others.
_NAMED = 5

_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"})


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

    With ``size`` every image goes through ``repzoo.images.preprocess`` to that size. Without it
    the images must agree in height and width, and the result is grey only if all of them are.

    Args:
        count: number of images N, at least 1.
        open_image: gives the i-th image; called from several threads.
        place: says where the i-th image is, for errors.
        name: what is being read, for the progress bar.
        size: ``(H, W, C)`` to resize and convert to.
        progress: show a bar, on a terminal only.

    Raises:
        DataError: naming the images that cannot be decoded, or else those that differ in size.
    """
    wanted = None if size is None else _spec(*size)

    def read(index: int) -> Pixels | str:
        try:
            image = open_image(index)
            return _pixels(image, wanted or _own_spec(image))
        except (OSError, ValueError, SyntaxError) as error:
            return f"{place(index)}: {error}"

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


@functools.lru_cache(maxsize=16)
def _spec(height: int, width: int, channels: int) -> InputSpec:
    return InputSpec.model_validate({"height": height, "width": width, "channels": channels})


def _own_spec(image: Image.Image) -> InputSpec:
    return _spec(image.height, image.width, 1 if image.mode in _GREY_MODES else 3)


def _pixels(image: Image.Image, spec: InputSpec) -> Pixels:
    if image.size != (spec.width, spec.height):
        raise ValueError(f"{image.size} is not {spec.shape}")
    if image.mode != spec.mode:
        image = image.convert(spec.mode)
    return np.asarray(image, np.uint8).reshape(spec.shape)


def _size_text(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _listed(found: str, problems: list[str]) -> str:
    shown = "".join(f"\n  {problem}" for problem in problems[:_NAMED])
    rest = len(problems) - _NAMED
    return f"{found}:{shown}" + (f"\n  and {rest} more" if rest > 0 else "")
