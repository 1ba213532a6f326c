"""Greedy, bounded batching: while one batch runs, arriving rows queue, and the next takes them all.

There is no timer. At low load a request runs at once and alone; at high load batches fill up to
their limit by themselves: what runs in about 10 ms. More would gain nothing, and whoever comes next
would wait longer. The queue refuses rather than grows.
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

__all__ = ["Batcher", "QueueFull", "Results"]

#: A batch of so long a run is as efficient as any: 512 images of an MLP, 2 faces of a ResNet.
_BATCH_SECONDS = 0.010

#: and a few rows are always worth it: a device takes them for no longer than one.
_FEW_ROWS = 8

#: Named results of a run, each with one row (an array's, or a list's item) for every row it took.
Results: TypeAlias = Mapping[str, "NDArray[Any] | list[Any]"]


class QueueFull(Exception):
    """The queue holds as many rows as it may. ``queued`` says how many."""

    def __init__(self, queued: int) -> None:
        super().__init__(f"{queued} rows are waiting already")
        self.queued = queued


class Batcher:
    """Runs one operation of one model on rows that many requests bring.

    A request of more rows than a batch takes is split and put together again. Requests take turns:
    one that is not through after its turn goes to the end of the queue. Half of a batch is kept for
    small requests, of an eighth of a batch at most, so that they are in the next one whatever large
    ones wait before them; what they do not need goes to the others. While more than a batch waits,
    the next one is handed over before the one that runs is through. If a batch of several requests
    fails, each of them runs again alone, so that only the one at fault fails.

    Use it from one event loop. The run itself happens in ``executor``.

    Args:
        run: takes rows ``[n, ...]``, n at most ``max_rows``, gives their results.
        executor: where it runs, one batch after the other.
        max_rows: rows in one batch, at most.
        max_queued: rows waiting; a request that would exceed it is refused.
        mix: whether rows of different requests may share a batch. Where they may not, the result
            of a request does not depend on what else arrives, down to the last bit.
        on_batch: told of every batch that ran: its rows, and its seconds.
    """

    def __init__(
        self,
        run: Callable[[NDArray[Any]], Results],
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
        #: seconds that a row takes, a running mean; 0 before the first batch.
        self._row_seconds = 0.0
        self._workers: set[asyncio.Task[None] | None] = set()

    @property
    def queued(self) -> int:
        """Rows that wait; those in the batch that runs are not among them."""
        return self._queued

    async def __call__(self, rows: NDArray[Any], timing: Timing | None = None) -> dict[str, Any]:
        """The results for ``rows``, at least one; cancelling takes what still waits off the queue.

        Args:
            rows: ``[n, ...]``.
            timing: where to write how long they waited, and were in batches.

        Raises:
            QueueFull: at once, if there is no room.
            Exception: whatever the run raised.
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
        """Rows in the next batch, at most."""
        if not self._mix or not self._row_seconds:
            return self._max_rows
        return min(self._max_rows, max(_FEW_ROWS, int(_BATCH_SECONDS / self._row_seconds)))

    @property
    def _wanted_workers(self) -> int:
        """One; and another while the next batch is full, and so waits for nothing but its turn."""
        return 2 if self._queued >= self._limit else 1

    async def _work(self) -> None:
        try:
            while self._jobs and len(self._workers) <= self._wanted_workers:
                await self._run_batch(self._take(self._limit))
        finally:
            self._workers.remove(asyncio.current_task())

    def _take(self, limit: int) -> list[_Share]:
        """The next batch, off the queue; what is not through then goes to its end."""
        if not self._mix or len(self._jobs) == 1:
            shares = {self._jobs[0]: min(self._jobs[0].waiting, limit)}
        else:
            shares = self._shares(limit)
        batch = [job.take(share) for job, share in shares.items()]
        self._queued -= sum(shares.values())
        # Those that were served are not all at the front.
        through = [job for job in shares if job.waiting]
        self._jobs = deque(job for job in self._jobs if job not in shares)
        self._jobs.extend(through)
        return batch

    def _shares(self, limit: int) -> dict[_Job, int]:
        """How many rows of each request the next batch has, of ``limit``."""
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
            results, seconds = await loop.run_in_executor(self._executor, self._timed, rows)
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
            job.receive(share, {name: value[start:stop] for name, value in results.items()})
            start = stop

    def _timed(self, rows: NDArray[Any]) -> tuple[Results, float]:
        start = time.perf_counter()
        results = self._run(rows)
        return results, time.perf_counter() - start


class _Job:
    """One request in the queue: the rows that still wait, and the results so far."""

    def __init__(self, rows: NDArray[Any], runs: list[Run] | None = None) -> None:
        self._rows = rows
        #: told of the batches that had some of them.
        self.runs = runs
        self._taken = 0
        #: results, by where their rows begin: a batch that fails and runs again, each request of it
        #: alone, may be overtaken by the next.
        self._parts: dict[int, Results] = {}
        self._received = 0
        #: seconds of the batches that had some of them.
        self.ran = 0.0
        self.done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    @property
    def waiting(self) -> int:
        return len(self._rows) - self._taken

    def take(self, room: int) -> _Share:
        share = _Share(self, self._taken, self._rows[self._taken : self._taken + room])
        self._taken += len(share.rows)
        return share

    def receive(self, share: _Share, part: Results) -> None:
        self._parts[share.start] = part
        self._received += len(share.rows)
        # Done already: the caller has gone, or another of its batches failed.
        if self._received == len(self._rows) and not self.done.done():
            parts = [self._parts[begin] for begin in sorted(self._parts)]
            self.done.set_result({name: _join([p[name] for p in parts]) for name in parts[0]})

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Share(NamedTuple):
    """Those rows of a request that are in one batch, from its row ``start`` on."""

    job: _Job
    start: int
    rows: NDArray[Any]


def _join(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], list):
        return [item for part in parts for item in part]
    return np.concatenate(parts)
