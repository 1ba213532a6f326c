"""Callers who hang up while their request is being answered: the work is dropped at once.

ASGI tells of a hang-up only to who waits for it, and a task that waits costs as much as a small
request does. So nobody waits for the first moments, in which most requests are answered; from then
on a task does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

__all__ = ["Hangups", "Watched"]

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

_FIRST_SECONDS = 0.02


class Watched:
    """One caller. Use it in a ``with``; ``gone`` says afterwards whether the caller hung up."""

    __slots__ = ("_hangups", "_on_gone", "_receive", "_task", "gone")

    def __init__(
        self, hangups: Hangups, receive: Receive, on_gone: Callable[[], object] | None
    ) -> None:
        self._hangups = hangups
        self._receive = receive
        self._on_gone = on_gone
        self._task: asyncio.Task[None] | None = None
        self.gone = False

    def __enter__(self) -> Watched:
        self._hangups.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._on_gone = None
        self._hangups.discard(self)
        if self._task is not None:
            self._task.cancel()

    def start(self) -> None:
        """Begin to wait for the hang-up."""
        self._task = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._on_gone is not None:
            self.gone = True
            self._on_gone()


class Hangups:
    """Watches the callers of one event loop."""

    def __init__(self, first_seconds: float = _FIRST_SECONDS) -> None:
        self._seconds = first_seconds
        #: since the last tick, and before it.
        self._new: set[Watched] = set()
        self._old: set[Watched] = set()
        self._ticking = False

    def watch(self, receive: Receive, on_gone: Callable[[], object]) -> Watched:
        """Call ``on_gone`` if the caller hangs up within the ``with`` block of what this gives.

        The body must have been received: what else arrives is dropped.
        """
        return Watched(self, receive, on_gone)

    def add(self, caller: Watched) -> None:
        self._new.add(caller)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._seconds, self._tick)

    def discard(self, caller: Watched) -> None:
        self._new.discard(caller)
        self._old.discard(caller)

    def _tick(self) -> None:
        for caller in self._old:
            caller.start()
        self._old, self._new = self._new, set()
        self._ticking = bool(self._old)
        if self._ticking:
            asyncio.get_running_loop().call_later(self._seconds, self._tick)
