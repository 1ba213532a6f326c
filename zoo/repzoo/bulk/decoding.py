"""Decoding image files into an encoder's pixels, in processes that run ahead of it."""

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

__all__ = ["Batch", "Decoded", "Decoders", "usable_cores"]


class Batch(NamedTuple):
    """Consecutive images of one part."""

    part: int
    items: Sequence[Item]


class Decoded(NamedTuple):
    """A batch after decoding: ``pixels`` are uint8 ``[n, H, W, C]`` of the images without error."""

    part: int
    ids: list[str]
    pixels: Pixels
    #: By position in the batch.
    errors: dict[int, str]


class Decoders:
    """A pool of processes that decode images.

    If a process dies while it decodes an image, because memory runs out or because of a bug in a
    decoder, that image gets an error like any other.

    Args:
        spec: The encoder's input.
        workers: The number of processes; 0 decodes in this process, on demand.
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
        """Decode batches, in order. A few more batches than workers are in progress at a time."""
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
            # Any batch may have caused it. Decode this one on its own, and submit the others again.
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
        """Decode a batch in its own process; if that dies too, use one process per image."""
        try:
            with self._start(1) as pool:
                return pool.submit(_decode, batch, self._spec).result()
        except BrokenProcessPool:
            if len(batch.items) == 1:
                ids = [batch.items[0].id]
                return Decoded(batch.part, ids, self._none(), {0: "the decoder crashed"})
        each = [self._alone(Batch(batch.part, [item])) for item in batch.items]
        errors = {n: one.errors[0] for n, one in enumerate(each) if one.errors}
        pixels = np.concatenate([one.pixels for one in each])
        return Decoded(batch.part, [item.id for item in batch.items], pixels, errors)

    def _none(self) -> Pixels:
        return np.empty((0, *self._spec.shape), np.uint8)

    @staticmethod
    def _start(workers: int) -> ProcessPoolExecutor:
        # Not forked, because threads of ONNX Runtime may hold locks.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(workers, context, initializer=_end_with_parent)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end_with_parent() -> None:
    """End this process when its parent ends, even by SIGKILL, and not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes
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
            errors[number] = "not enough memory to decode it"
    stacked = np.stack(pixels) if pixels else np.empty((0, *spec.shape), np.uint8)
    return Decoded(batch.part, [item.id for item in batch.items], stacked, errors)


def _one(item: Item, spec: InputSpec) -> Pixels:
    if item.error is not None:
        raise InvalidImage(item.error)
    data = Path(item.data).read_bytes() if isinstance(item.data, str) else item.data
    return preprocess(decode(data, spec), spec)
