"""Image files -> pixels, in a pool of threads.

The pool decodes a request's files a few at a time, and never holds more of a request's chunks than
it has threads. So a request with one image waits for a few images of a large request and not for
all of them, and the remaining files of a client that hangs up are never decoded. The queue has a
limit; requests beyond it are refused.

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
from repzoo.runtime.images import as_pixels

from repzoo_serving.models.batching import QueueFull

__all__ = ["Decoder"]

#: Accepted formats; the decoders of all others are not exposed to clients.
_FORMATS = ("PNG", "JPEG", "WEBP")

_FILES_AT_ONCE = 8

_SMALL_BYTES = 8192
_SMALL_PIXELS = 96 * 96


class Decoder:
    """Decodes files for all requests of one event loop.

    Args:
        executor: Where files are decoded. Decoding releases the interpreter lock, so it scales
            with cores.
        width: Number of threads of ``executor``.
        max_pixels: Maximum number of pixels per file.
        max_queued: Maximum number of files of all requests; a request beyond it is refused.
    """

    def __init__(self, executor: Executor, *, width: int, max_pixels: int, max_queued: int) -> None:
        self._executor = executor
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
        if len(files) == 1 and len(files[0]) <= _SMALL_BYTES:
            # The header may say that the image is large; then nothing has been decoded yet.
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
