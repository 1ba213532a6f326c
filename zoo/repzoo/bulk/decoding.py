"""Image files -> the pixels that an encoder takes, in processes that are ahead of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from repzoo.bulk.sources import Item
from repzoo.errors import InvalidImage
from repzoo.packages.config import InputSpec
from repzoo.runtime.images import Pixels, decode, preprocess

__all__ = ["Batch", "Decoded", "Decoders"]


class Batch(NamedTuple):
    """Some images of one part, in order."""

    part: int
    items: Sequence[Item]


class Decoded(NamedTuple):
    """A batch whose good images are ``pixels``, uint8 ``[n, H, W, C]``; the others have errors."""

    part: int
    ids: list[str]
    pixels: Pixels
    #: by place in the batch.
    errors: dict[int, str]


class Decoders:
    """A pool of processes.

    An image on which a process dies, for want of memory or by a fault of a decoder, becomes an
    error like any other.

    Args:
        spec: the encoder's input.
        workers: how many; with 0, everything happens in this process when it is asked for.
    """

    def __init__(self, spec: InputSpec, workers: int) -> None:
        self._spec = spec
        self._workers = workers
        self._pool = self._start(workers) if workers else None

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, batches: Iterable[Batch]) -> Iterator[Decoded]:
        """What becomes of each batch, in order; a few more than there are workers are ahead."""
        if self._pool is None:
            yield from (_decode(batch, self._spec) for batch in batches)
            return
        waiting: deque[tuple[Batch, Future[Decoded]]] = deque()
        for batch in batches:
            waiting.append((batch, self._submit(batch)))
            if len(waiting) == self._workers + 2:
                yield self._take(waiting)
        while waiting:
            yield self._take(waiting)

    def _take(self, waiting: deque[tuple[Batch, Future[Decoded]]]) -> Decoded:
        batch, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            # Whose fault it was is not known: this one goes alone, the others again.
            assert self._pool is not None
            self._pool.shutdown(wait=False)
            self._pool = self._start(self._workers)
            again = [(each, self._submit(each)) for each, _ in waiting]
            waiting.clear()
            waiting.extend(again)
            return self._alone(batch)

    def _submit(self, batch: Batch) -> Future[Decoded]:
        assert self._pool is not None
        try:
            return self._pool.submit(_decode, batch, self._spec)
        except BrokenProcessPool as error:
            failed: Future[Decoded] = Future()
            failed.set_exception(error)
            return failed

    def _alone(self, batch: Batch) -> Decoded:
        """A batch by a process of its own, or each image of it, if that too dies."""
        try:
            with self._start(1) as pool:
                return pool.submit(_decode, batch, self._spec).result()
        except BrokenProcessPool:
            if len(batch.items) == 1:
                ids = [batch.items[0].id]
                return Decoded(batch.part, ids, self._none(), {0: "the decoder died of it"})
        each = [self._alone(Batch(batch.part, [item])) for item in batch.items]
        errors = {n: one.errors[0] for n, one in enumerate(each) if one.errors}
        pixels = np.concatenate([one.pixels for one in each])
        return Decoded(batch.part, [item.id for item in batch.items], pixels, errors)

    def _none(self) -> Pixels:
        return np.empty((0, *self._spec.shape), np.uint8)

    @staticmethod
    def _start(workers: int) -> ProcessPoolExecutor:
        # Not forked: ONNX Runtime has threads, and locks that they hold.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(workers, context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Have this process end when the one that started it does, even by SIGKILL, and not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _decode(batch: Batch, spec: InputSpec) -> Decoded:
    pixels, errors = [], {}
    for number, item in enumerate(batch.items):
        try:
            pixels.append(_one(item, spec))
        except InvalidImage as error:
            errors[number] = error.detail
        except OSError as error:
            errors[number] = f"cannot be read: {error.strerror or error}"
        except MemoryError:
            errors[number] = "there is not enough memory for it"
    stacked = np.stack(pixels) if pixels else np.empty((0, *spec.shape), np.uint8)
    return Decoded(batch.part, [item.id for item in batch.items], stacked, errors)


def _one(item: Item, spec: InputSpec) -> Pixels:
    if item.error is not None:
        raise InvalidImage(item.error)
    data = Path(item.data).read_bytes() if isinstance(item.data, str) else item.data
    return preprocess(decode(data), spec)
