"""The thread in which one model runs, and a check that it still runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

__all__ = ["Runner"]

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("repzoo_serving")


class Runner(ThreadPoolExecutor):
    """An executor with one thread, because one run of a model already uses all cores or the device.

    Args:
        name: Name of the model.
        canary: A minimal run, to check that the model runs.
        hang_seconds: A run that takes longer is considered to hang.
    """

    def __init__(self, name: str, canary: Callable[[], object], hang_seconds: float) -> None:
        super().__init__(1, thread_name_prefix=f"run-{name}")
        self._name = name
        self._canary = canary
        self._hang_seconds = hang_seconds
        self._busy_since: float | None = None
        self._pending: asyncio.Future[object] | None = None

    @property
    def running(self) -> float:
        """Seconds that the current run has taken; 0 if there is no current run."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def hangs(self) -> bool:
        """Whether the current run takes too long."""
        return self.running > self._hang_seconds

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a run."""
        return super().submit(self._run, partial(fn, *args, **kwargs))

    def _run(self, call: Callable[[], T]) -> T:
        self._busy_since = time.monotonic()
        try:
            return call()
        finally:
            self._busy_since = None

    async def runs(self) -> bool:
        """Return whether the model runs: the current run does not hang, or the canary succeeds.

        So a busy model is checked at once, and a canary never queues behind large batches.
        """
        if self._busy_since is not None:
            return not self.hangs
        if self._pending is None or self._pending.done():
            self._pending = asyncio.get_running_loop().run_in_executor(self, self._canary)
        try:
            # Shielded: all checks share one canary, which could not be stopped anyway.
            await asyncio.wait_for(asyncio.shield(self._pending), self._hang_seconds)
        except TimeoutError:
            return False
        except Exception:
            _logger.exception("the canary run of %s failed", self._name)
            return False
        return True

    def end(self, seconds: float) -> bool:
        """Accept no more runs; return whether the current one ended within ``seconds``."""
        self.shutdown(wait=False, cancel_futures=True)
        for thread in self._threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)
