"""Graceful shutdown: after SIGTERM a worker accepts no new requests and finishes accepted ones.

    SIGTERM ──> not ready, new requests get 503 ──> accepted requests are answered ──> exit

A request is accepted when its head has arrived. The server listens until it exits, so that new
requests get a response instead of a reset. ``seconds`` gives load balancers time to notice that
the worker is not ready. Ctrl-C skips that wait; a second Ctrl-C exits at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

from repzoo_serving.http.connection import abort_all

__all__ = ["Drain"]

_logger = logging.getLogger("repzoo_serving")

_Handler: TypeAlias = Callable[[int, FrameType | None], object]


class Drain:
    """Counts the requests in progress, and waits for them at shutdown.

    Attributes:
        active: Number of requests accepted and not answered yet.
        begun: Whether new requests are refused.
    """

    def __init__(self) -> None:
        self.active = 0
        self.begun = False
        self._idle = asyncio.Event()
        self._cut_off = False
        self._task: asyncio.Task[None] | None = None

    def enter(self) -> None:
        """Count an accepted request."""
        self.active += 1

    def leave(self) -> None:
        """Count a request that was answered, or whose client is gone."""
        self.active -= 1
        if self.begun and not self.active:
            self._idle.set()

    def handle_signals(self, seconds: float, limit: float) -> None:
        """On SIGTERM and SIGINT, drain first and then call the present handlers.

        Call it in the event loop, after the HTTP server has set its own handlers.

        Args:
            seconds: Minimum time for which new requests are refused after SIGTERM.
            limit: Maximum time to wait for accepted requests, in seconds.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # signals only reach the main thread's event loop
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            then = signal.getsignal(number)
            if callable(then):
                wait = seconds if number == signal.SIGTERM else 0.0
                loop.add_signal_handler(number, self._on_signal, number, then, wait, limit)

    def _on_signal(self, number: int, then: _Handler, seconds: float, limit: float) -> None:
        if not self.begun:
            self._task = asyncio.ensure_future(self._drain(number, then, seconds, limit))
        elif number == signal.SIGINT:
            if self.active and not self._cut_off:
                self._cut_off = True
                facts = {"in_flight": self.active}
                _logger.warning(
                    "cut off by a second signal; requests in flight: %d", self.active, extra=facts
                )
            # uvicorn exits without waiting on the second signal.
            then(number, None)
            then(number, None)

    async def _drain(self, number: int, then: _Handler, seconds: float, limit: float) -> None:
        # Ctrl-C in a terminal without requests needs no explanation.
        if number == signal.SIGTERM or self.active:
            await self._logged(signal.Signals(number).name, seconds, limit)
        else:
            await self.begin(seconds, limit)
        if self.active:  # otherwise the HTTP server would wait for clients that do not read
            abort_all()
        then(number, None)

    async def _logged(self, why: str, seconds: float, limit: float) -> None:
        started = time.monotonic()
        facts: dict[str, float] = {"in_flight": self.active}
        _logger.info("draining after %s; requests in flight: %d", why, self.active, extra=facts)
        await self.begin(seconds, limit)
        facts = {"in_flight": self.active, "seconds": round(time.monotonic() - started, 3)}
        if self.active:
            _logger.warning(
                "cut off, out of time; requests in flight: %d", self.active, extra=facts
            )
        else:
            _logger.info("drained: all requests are answered", extra=facts)

    async def begin(self, seconds: float = 0.0, limit: float = 30.0) -> None:
        """Refuse new requests; return when all accepted ones are answered."""
        self.begun = True
        if not self.active:
            self._idle.set()
        try:
            async with asyncio.timeout(max(seconds, limit)):
                await asyncio.gather(asyncio.sleep(seconds), self._idle.wait())
        except TimeoutError:
            pass  # the deadline has answered them all, except clients that do not read
