"""Decoding of all images of a source into one uint8 array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from repzoo.bulk.decoding import usable_cores
from repzoo.bulk.skipping import bad_files, left_out, listed
from repzoo.errors import InvalidImage
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.images import Pixels, preprocess
from tqdm import tqdm

from repzoo_training.errors import DataError

__all__ = ["Size", "Stacked", "input_spec", "stack_pixels"]

#: Height, width and channels (1 grey or 3 RGB), or the input of a model with its resize policy.
Size = tuple[int, int, int] | InputSpec

#: Images of at least this many pixels before resizing are decoded in a pool of threads. Decoding
#: smaller images is mostly Python code, and threads that compete for the interpreter lock take 1.8
#: times as long as one thread (28 x 28 PNG, two cores). From 109 x 89 (JPEG) on, threads help.
_THREADED_PIXELS = 64 * 64

#: How many images a task of the pool decodes.
_CHUNK = 16


class Stacked(NamedTuple):
    """The images that could be read, and a report on the others."""

    #: uint8 ``[N, H, W, C]``.
    pixels: Pixels
    #: The index of each of the N images in the source.
    kept: Sequence[int]
    #: The images that could not be read, and why.
    skipped: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """A sentence about the skipped images, if there are any."""
        bad = len(self.skipped)
        note = left_out(bad, len(self.kept) + bad, self.skipped)
        return [note] if note else []


def input_spec(size: Size, jpeg: Literal["full", "scaled"] = "scaled") -> InputSpec:
    """Return the input that images are prepared for: ``size``, or a model's own input.

    Args:
        size: ``(H, W, C)``, or the input of a model, which is returned as it is.
        jpeg: How JPEG files are decoded for ``(H, W, C)``. "scaled" is also the policy of the
            packages that ``zoo export`` writes.

    Raises:
        DataError: If the size is not valid.
    """
    if isinstance(size, InputSpec):
        return size
    try:
        height, width, channels = size
        return InputSpec.model_validate(
            {"height": height, "width": width, "channels": channels}
            | {"resize": ResizePolicy(jpeg=jpeg)}
        )
    except ValueError as error:
        raise DataError(
            f"size is {size}, expected (height, width, channels) with 1 or 3 channels"
        ) from error


def stack_pixels(
    count: int,
    open_image: Callable[[int], Image.Image],
    place: Callable[[int], str],
    *,
    name: str,
    size: Size | None,
    max_skipped: float,
    progress: bool,
) -> Stacked:
    """Decode ``count`` images into one array, uint8 ``[N, H, W, C]``.

    With ``size``, every image is preprocessed to that size by ``repzoo.runtime.images.preprocess``.
    Without it, all images must have the same height and width, and the result is grey only if all
    images are grey. Images that cannot be read are skipped; see :mod:`repzoo.bulk.skipping`.

    Args:
        count: The number of images, at least 1.
        open_image: Returns the i-th image, upright and in mode L or RGB, like
            ``repzoo.runtime.images.decode``. It is called from several threads, and raises
            InvalidImage or OSError if the image cannot be read.
        place: Returns the location of the i-th image, for messages.
        name: The name of the source, for the progress bar.
        size: ``(H, W, C)`` to resize and convert to, or a model's input.
        max_skipped: The share of images that may be skipped.
        progress: Show a progress bar, on a terminal only.

    Raises:
        DataError: If too many images cannot be read, or if they differ in size.
    """
    spec = None if size is None else input_spec(size)
    largest = 0

    def read(index: int) -> Pixels | str:
        nonlocal largest
        try:
            image = open_image(index)
            largest = max(largest, image.width * image.height)
            return preprocess(image, spec) if spec else _unchanged(image)
        except InvalidImage as error:
            return f"{place(index)}: {error.detail}"
        except OSError as error:
            return f"{place(index)}: {error.strerror or error}"

    stacked = np.empty((0, 0, 0, 0), np.uint8)
    kept: list[int] = []
    skipped: list[str] = []
    misfits: list[str] = []
    hidden = None if progress else True  # None: hidden unless on a terminal
    results = _map(read, count, lambda: largest >= _THREADED_PIXELS)
    for index, pixels in enumerate(tqdm(results, name, count, unit=" images", disable=hidden)):
        if isinstance(pixels, str):
            skipped.append(pixels)
            continue
        if not kept:
            stacked = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape[:2] != stacked.shape[1:3]:
            misfits.append(f"{place(index)} is {_size_text(pixels.shape)}")
            continue
        if pixels.shape[2] > stacked.shape[3]:  # the first colour image after grey ones
            stacked = np.repeat(stacked, pixels.shape[2], axis=3)
        stacked[len(kept)] = pixels  # [H, W, 1] broadcasts over three channels
        kept.append(index)
    if message := bad_files(len(skipped), count, max_skipped, skipped):
        raise DataError(message)
    if not kept:
        raise DataError(listed(f"none of {count:,} images can be read", skipped, len(skipped)))
    if misfits:
        found = (
            f"{len(misfits):,} of {count:,} images differ in size from {place(kept[0])}, which is "
            f"{_size_text(stacked.shape[1:])}: set a size to resize all images to"
        )
        raise DataError(listed(found, misfits, len(misfits)))
    return Stacked(stacked[: len(kept)], kept, tuple(skipped))


def _map(
    read: Callable[[int], Pixels | str], count: int, are_large: Callable[[], bool]
) -> Iterator[Pixels | str]:
    """Yield ``read`` of 0, 1, ..., in order; in threads if the first readable image is large."""
    start = 0
    while start < count:
        pixels = read(start)
        yield pixels
        start += 1
        if not isinstance(pixels, str):
            break
    if not are_large():
        yield from map(read, range(start, count))
        return

    def read_chunk(first: int) -> Sequence[Pixels | str]:
        return [read(index) for index in range(first, min(first + _CHUNK, count))]

    with ThreadPoolExecutor(usable_cores()) as pool:
        for chunk in pool.map(read_chunk, range(start, count, _CHUNK)):
            yield from chunk


def _unchanged(image: Image.Image) -> Pixels:
    return np.asarray(image, np.uint8).reshape(image.height, image.width, -1)


def _size_text(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"
