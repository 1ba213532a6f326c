"""Image files -> pixels, in a pool of threads beside the event loop.

A request's files are decoded a few at a time, and no more of them are handed to the pool than it
has threads: a request of one image waits for a few of a large one, not for all of them, and what a
caller who hangs up had still waiting is never decoded. The queue refuses rather than grows.

A lone file of few bytes and few pixels is the exception: it is decoded at once and in place, which
takes less than handing it over would.
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
from repzoo.runtime.images import as_pixels

from repzoo_serving.models.batching import QueueFull

__all__ = ["Decoder"]

#: What strangers may send; decoders of other formats are not exposed to them.
_FORMATS = ("PNG", "JPEG", "WEBP")

_FILES_AT_ONCE = 8

_SMALL_BYTES = 8192
_SMALL_PIXELS = 96 * 96


class Decoder:
    """Decodes files for all requests of one event loop.

    Args:
        executor: where; decoding lets go of the interpreter lock, so it gains from every core.
        width: how many threads that has.
        max_pixels: the most pixels of one file.
        max_queued: files of all requests; one that would exceed it is refused.
    """

    def __init__(self, executor: Executor, *, width: int, max_pixels: int, max_queued: int) -> None:
        self._executor = executor
        self._width = width
        self._max_pixels = max_pixels
        self._max_queued = max_queued
        self.queued = 0

    async def __call__(self, files: Sequence[bytes], spec: InputSpec) -> NDArray[np.uint8]:
        """uint8 ``[N, H, W, C]``, as `repzoo.runtime.images` makes them.

        Raises:
            QueueFull: at once, if there is no room.
            InvalidImage: for the first file that is none, with its ``index``.
        """
        if len(files) == 1 and len(files[0]) <= _SMALL_BYTES:
            # By its header, before anything is decoded, it may turn out to be large.
            with suppress(ImageTooLarge):
                return _decode(files, 0, spec, min(_SMALL_PIXELS, self._max_pixels))
        if self.queued + len(files) > self._max_queued:
            raise QueueFull(self.queued)
        self.queued += len(files)
        loop = asyncio.get_running_loop()
        pending: deque[asyncio.Future[NDArray[np.uint8]]] = deque()
        parts: list[NDArray[np.uint8]] = []
        try:
            for start in range(0, len(files), _FILES_AT_ONCE):
                if len(pending) == self._width:
                    parts.append(await pending.popleft())
                some = files[start : start + _FILES_AT_ONCE]
                decode = partial(_decode, some, start, spec, self._max_pixels)
                pending.append(loop.run_in_executor(self._executor, decode))
            while pending:
                parts.append(await pending.popleft())
        finally:
            for future in pending:
                future.cancel()
            self.queued -= len(files)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _decode(
    files: Sequence[bytes], start: int, spec: InputSpec, max_pixels: int
) -> NDArray[np.uint8]:
    try:
        return as_pixels(files, spec, max_pixels=max_pixels, formats=_FORMATS)
    except InvalidImage as error:
        if error.index is None or not start:
            raise
        raise type(error)(error.detail, start + error.index) from error.__cause__
