"""Greedy, bounded batching: rows queue while a batch runs, and the next batch takes them all.

There is no timer. At low load, a request runs alone and at once; at high load, batches fill up to
their limit: as many rows as run in about 10 ms. Larger batches would not be more efficient, and
later requests would wait longer. The queue has a limit; requests beyond it are refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from repzoo_serving.http.timing import Run, Timing

__all__ = ["Batcher", "Outputs", "QueueFull"]

#: Longer batches are not more efficient: this is 512 images of an MLP, or 2 faces of a ResNet.
_BATCH_SECONDS = 0.010

#: A few rows are always batched: they take a device no longer than one.
_FEW_ROWS = 8

#: Named outputs of a run, each with one row (of an array) or item (of a list) per input row.
Outputs: TypeAlias = Mapping[str, "NDArray[Any] | list[Any]"]


class QueueFull(Exception):
    """The queue has no room. ``queued`` is the number of rows in it."""

    def __init__(self, queued: int) -> None:
        super().__init__(f"the queue is full: {queued} rows are waiting")
        self.queued = queued


class Batcher:
    """Runs one operation of one model on the rows of many requests.

    A request with more rows than a batch takes is split, and its outputs are joined again. Requests
    take turns: one that is not complete after its turn goes to the end of the queue. Half of a
    batch is reserved for small requests, of at most an eighth of a batch, so that they are in the
    next batch even if large requests wait before them; what they leave free goes to the others.
    While more rows than a batch wait, the next batch is submitted before the current one ends. If a
    batch of several requests fails, each of them runs again alone, so that only the request at
    fault fails.

    Use it from one event loop. The run itself happens in ``executor``.

    Args:
        run: Takes rows ``[n, ...]``, with n at most ``max_rows``, and returns their outputs.
        executor: Where batches run, one after the other.
        max_rows: Maximum number of rows in a batch.
        max_queued: Maximum number of waiting rows; a request beyond it is refused.
        mix: Whether rows of different requests may share a batch. If not, the result of a request
            does not depend on other requests, down to the last bit.
        on_batch: Called after every batch with its number of rows and its seconds.
    """

    def __init__(
        self,
        run: Callable[[NDArray[Any]], Outputs],
        *,
        executor: Executor,
        max_rows: int,
        max_queued: int,
        mix: bool = True,
        on_batch: Callable[[int, float], object] = lambda rows, seconds: None,
    ) -> None:
        self._run = run
        self._executor = executor
        self._max_rows = max_rows
        self._max_queued = max_queued
        self._mix = mix
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        #: Running mean of the seconds per row; 0 before the first batch.
        self._row_seconds = 0.0
        self._workers: set[asyncio.Task[None] | None] = set()

    @property
    def queued(self) -> int:
        """Number of waiting rows, without the rows of the current batch."""
        return self._queued

    async def __call__(self, rows: NDArray[Any], timing: Timing | None = None) -> dict[str, Any]:
        """Return the outputs for ``rows``. Cancelling removes rows that still wait from the queue.

        Args:
            rows: ``[n, ...]``, with n at least 1.
            timing: Where to record how long the rows waited, and were in batches.

        Raises:
            QueueFull: At once, if the queue has no room.
            Exception: If the run raised it.
        """
        if self._queued + len(rows) > self._max_queued:
            raise QueueFull(self._queued)
        start = time.perf_counter()
        job = _Job(rows, timing.runs if timing is not None else None)
        self._jobs.append(job)
        self._queued += len(rows)
        if len(self._workers) < self._wanted_workers:
            self._workers.add(asyncio.create_task(self._work()))
        try:
            return await job.done
        finally:
            self._drop(job)
            if timing is not None:
                timing.run = job.ran
                timing.queue = time.perf_counter() - start - job.ran

    def _drop(self, job: _Job) -> None:
        if job.waiting:
            self._jobs.remove(job)
            self._queued -= job.waiting
            job.take(job.waiting)

    @property
    def _limit(self) -> int:
        """Maximum number of rows in the next batch."""
        if not self._mix or not self._row_seconds:
            return self._max_rows
        return min(self._max_rows, max(_FEW_ROWS, int(_BATCH_SECONDS / self._row_seconds)))

    @property
    def _wanted_workers(self) -> int:
        """One, or two while the next batch is full and only waits for its turn."""
        return 2 if self._queued >= self._limit else 1

    async def _work(self) -> None:
        try:
            while self._jobs and len(self._workers) <= self._wanted_workers:
                await self._run_batch(self._take(self._limit))
        finally:
            self._workers.remove(asyncio.current_task())

    def _take(self, limit: int) -> list[_Share]:
        """Take the next batch off the queue; requests that are not complete go to its end."""
        if not self._mix or len(self._jobs) == 1:
            shares = {self._jobs[0]: min(self._jobs[0].waiting, limit)}
        else:
            shares = self._shares(limit)
        batch = [job.take(share) for job, share in shares.items()]
        self._queued -= sum(shares.values())
        # Jobs in the batch are not all at the front of the queue.
        incomplete = [job for job in shares if job.waiting]
        self._jobs = deque(job for job in self._jobs if job not in shares)
        self._jobs.extend(incomplete)
        return batch

    def _shares(self, limit: int) -> dict[_Job, int]:
        """Return how many rows of each request are in the next batch."""
        room = limit
        shares: dict[_Job, int] = {}

        def give(job: _Job, most: int) -> None:
            nonlocal room
            share = min(job.waiting - shares.get(job, 0), most, room)
            if share:
                shares[job] = shares.get(job, 0) + share
                room -= share

        half = max(1, limit // 2)
        for job in self._jobs:  # in turn
            give(job, half - (limit - room))
            if limit - room == half:
                break
        for job in self._jobs:  # small ones
            if not room:
                break
            if job.waiting <= max(1, limit // 8):
                give(job, room)
        for job in self._jobs:  # in turn
            if not room:
                break
            give(job, room)
        return shares

    async def _run_batch(self, batch: list[_Share]) -> None:
        loop = asyncio.get_running_loop()
        try:
            rows = _join([share.rows for share in batch])
            outputs, seconds = await loop.run_in_executor(self._executor, self._timed, rows)
        except Exception as error:
            if len(batch) == 1:
                job = batch[0].job
                self._drop(job)
                job.fail(error)
                return
            for share in batch:
                await self._run_batch([share])
            return
        self._on_batch(len(rows), seconds)
        weight = 0.2 if self._row_seconds else 1.0
        self._row_seconds += weight * (seconds / len(rows) - self._row_seconds)
        shared: Run | None = None
        start = 0
        for share in batch:
            job, stop = share.job, start + len(share.rows)
            job.ran += seconds
            if job.runs is not None:
                shared = shared or Run(time.perf_counter() - seconds, seconds, len(rows))
                job.runs.append(shared)
            job.receive(share, {name: value[start:stop] for name, value in outputs.items()})
            start = stop

    def _timed(self, rows: NDArray[Any]) -> tuple[Outputs, float]:
        start = time.perf_counter()
        outputs = self._run(rows)
        return outputs, time.perf_counter() - start


class _Job:
    """One request in the queue: the rows that still wait, and the outputs so far."""

    def __init__(self, rows: NDArray[Any], runs: list[Run] | None = None) -> None:
        self._rows = rows
        #: The batches with rows of the request.
        self.runs = runs
        self._taken = 0
        #: Outputs by the index of their first row. A failed batch, whose requests run again alone,
        #: may be overtaken by the next batch.
        self._parts: dict[int, Outputs] = {}
        self._received = 0
        #: Seconds of these batches.
        self.ran = 0.0
        self.done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    @property
    def waiting(self) -> int:
        return len(self._rows) - self._taken

    def take(self, room: int) -> _Share:
        share = _Share(self, self._taken, self._rows[self._taken : self._taken + room])
        self._taken += len(share.rows)
        return share

    def receive(self, share: _Share, part: Outputs) -> None:
        self._parts[share.start] = part
        self._received += len(share.rows)
        # It may be done already: the client is gone, or another of its batches failed.
        if self._received == len(self._rows) and not self.done.done():
            parts = [self._parts[begin] for begin in sorted(self._parts)]
            self.done.set_result({name: _join([p[name] for p in parts]) for name in parts[0]})

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Share(NamedTuple):
    """The rows of a request in one batch, beginning with its row ``start``."""

    job: _Job
    start: int
    rows: NDArray[Any]


def _join(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], list):
        return [item for part in parts for item in part]
    return np.concatenate(parts)
