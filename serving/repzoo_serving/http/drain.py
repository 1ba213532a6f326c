"""The end of a worker: from SIGTERM on it takes nothing more, and finishes what it has accepted.

    SIGTERM ──> readiness is red, new requests get 503 ──> accepted ones are answered ──> the end

A request is accepted once its head has arrived. The server keeps listening until the end, so that
nobody is cut off without a word; ``seconds`` gives load balancers the time to see that readiness is
red. Ctrl-C skips that wait, and a second one the rest.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

__all__ = ["Drain"]

_Handler: TypeAlias = Callable[[int, FrameType | None], object]


class Drain:
    """Counts the requests that are accepted and not answered, and waits for them when told to.

    Attributes:
        active: how many there are.
        begun: whether new ones are refused.
    """

    def __init__(self) -> None:
        self.active = 0
        self.begun = False
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def enter(self) -> None:
        """A request is accepted."""
        self.active += 1

    def leave(self) -> None:
        """A request is answered, or its caller gone."""
        self.active -= 1
        if self.begun and not self.active:
            self._idle.set()

    def handle_signals(self, seconds: float, limit: float) -> None:
        """Drain on SIGTERM and SIGINT, and only then do what they do now.

        Call it in the event loop, once the HTTP server has set its own handlers.

        Args:
            seconds: how long to go on refusing at least, after SIGTERM.
            limit: how long to wait for accepted requests at most.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # no signal reaches an event loop there
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
            # In uvicorn's words: exit, and do not wait.
            then(number, None)
            then(number, None)

    async def _drain(self, number: int, then: _Handler, seconds: float, limit: float) -> None:
        await self.begin(seconds, limit)
        then(number, None)

    async def begin(self, seconds: float = 0.0, limit: float = 30.0) -> None:
        """Refuse what is new, and return once all that was accepted is answered."""
        self.begun = True
        if not self.active:
            self._idle.set()
        try:
            async with asyncio.timeout(max(seconds, limit)):
                await asyncio.gather(asyncio.sleep(seconds), self._idle.wait())
        except TimeoutError:
            pass  # the deadline has answered them all, but for a caller who does not read
