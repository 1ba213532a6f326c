"""Image files -> pixels, in two pools of threads.

The first pool decodes small images, a few at a time. An image that its header says is large is
passed to the second pool, one at a time. Each pool has a thread per core, so that large images use
all cores, and small ones share the cores with them instead of waiting for them.

A pool never holds more of a request's work than it has threads. So a request with one image waits
for a few images of a large request and not for all of them, and the remaining files of a client
that hangs up are never decoded. The queue has a limit; requests beyond it are refused.

A single small file is decoded in the event loop, because handing it over would take longer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import ImageTooLarge, InvalidImage
from repzoo.packages.config import InputSpec
from repzoo.runtime.images import FORMATS, as_pixels

from repzoo_serving.models.batching import QueueFull

__all__ = ["Decoder"]

#: Accepted formats. The decoder of AVIF ignores the size in the header, and with it any limit.
_FORMATS = tuple(name for name in FORMATS if name != "AVIF")

_FILES_AT_ONCE = 8

#: A file that is decoded in the event loop.
_TINY_BYTES = 8192
_TINY_PIXELS = 96 * 96
#: An image of the first pool: 1024 x 1024 pixels as PNG take about 30 ms.
_SMALL_PIXELS = 2**20


class Decoder:
    """Decodes files for all requests of one event loop.

    Args:
        small: Where small images are decoded. Decoding releases the interpreter lock, so it scales
            with cores.
        large: Where the others are decoded.
        width: Number of threads of each.
        max_pixels: Maximum number of pixels per file, see `repzoo.runtime.images.decode`.
        max_queued: Maximum number of files of all requests; a request beyond it is refused.
    """

    def __init__(
        self, small: Executor, large: Executor, *, width: int, max_pixels: int, max_queued: int
    ) -> None:
        self._small = small
        self._large = large
        self._width = width
        self._max_pixels = max_pixels
        self._max_queued = max_queued
        self.queued = 0

    async def __call__(self, files: Sequence[bytes], spec: InputSpec) -> NDArray[np.uint8]:
        """Return the files as uint8 ``[N, H, W, C]``, see `repzoo.runtime.images`.

        Raises:
            QueueFull: At once, if the queue has no room.
            InvalidImage: If a file cannot be decoded, with the ``index`` of the first one.
        """
        if len(files) == 1 and len(files[0]) <= _TINY_BYTES:
            # The header may say that the image is large; then nothing has been decoded yet.
            with suppress(ImageTooLarge):
                return _decode(files, 0, spec, min(_TINY_PIXELS, self._max_pixels))
        if self.queued + len(files) > self._max_queued:
            raise QueueFull(self.queued)
        self.queued += len(files)
        pending: deque[asyncio.Task[NDArray[np.uint8]]] = deque()
        parts: list[NDArray[np.uint8]] = []
        try:
            for start in range(0, len(files), _FILES_AT_ONCE):
                if len(pending) == self._width:
                    parts.append(await pending[0])
                    pending.popleft()
                some = files[start : start + _FILES_AT_ONCE]
                pending.append(asyncio.create_task(self._some(some, start, spec)))
            while pending:
                parts.append(await pending[0])
                pending.popleft()
        finally:
            for task in pending:
                task.cancel()
                if task.done() and not task.cancelled():
                    task.exception()  # or asyncio would log it
            self.queued -= len(files)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    async def _some(self, files: Sequence[bytes], start: int, spec: InputSpec) -> NDArray[np.uint8]:
        """Decode a few files, and those that turn out to be large one by one."""
        loop = asyncio.get_running_loop()
        parts: list[NDArray[np.uint8]] = []
        limit = min(_SMALL_PIXELS, self._max_pixels)
        done = 0
        while done < len(files):
            rest = partial(_decode_until_large, files[done:], start + done, spec, limit)
            pixels = await loop.run_in_executor(self._small, rest)
            parts.append(pixels)
            done += len(pixels)
            if done < len(files):
                one = partial(_decode, files[done : done + 1], start + done, spec, self._max_pixels)
                parts.append(await loop.run_in_executor(self._large, one))
                done += 1
        return np.concatenate(parts)


def _decode_until_large(
    files: Sequence[bytes], start: int, spec: InputSpec, max_pixels: int
) -> NDArray[np.uint8]:
    """Decode the files before the first that has more than ``max_pixels``."""
    parts = []
    for number, file in enumerate(files):
        try:
            parts.append(_decode((file,), start + number, spec, max_pixels))
        except ImageTooLarge:
            break
    return np.concatenate(parts) if parts else np.empty((0, *spec.shape), np.uint8)


def _decode(
    files: Sequence[bytes], start: int, spec: InputSpec, max_pixels: int
) -> NDArray[np.uint8]:
    try:
        return as_pixels(files, spec, max_pixels=max_pixels, formats=_FORMATS)
    except InvalidImage as error:
        if error.index is None or not start:
            raise
        raise error.at(start + error.index) from error.__cause__
