"""Notice clients that hang up while their request is processed, so that its work can be dropped.

ASGI reports a hang-up only to a task that waits for it, and such a task costs as much as a small
request. So nothing waits during the first moments, in which most requests are answered; after
that, a task does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

__all__ = ["Hangups", "Watched"]

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

_FIRST_SECONDS = 0.02


class Watched:
    """One client. Use it in a ``with``; afterwards, ``gone`` says whether the client hung up."""

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
        """Start waiting for the hang-up."""
        self._task = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._on_gone is not None:
            self.gone = True
            self._on_gone()


class Hangups:
    """Watches the clients of one event loop."""

    def __init__(self, first_seconds: float = _FIRST_SECONDS) -> None:
        self._seconds = first_seconds
        #: Clients added since the last tick, and before it.
        self._new: set[Watched] = set()
        self._old: set[Watched] = set()
        self._ticking = False

    def watch(self, receive: Receive, on_gone: Callable[[], object]) -> Watched:
        """Return a context in which ``on_gone`` is called if the client hangs up.

        Enter it after the body has been received: further messages are dropped.
        """
        return Watched(self, receive, on_gone)

    def add(self, client: Watched) -> None:
        self._new.add(client)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._seconds, self._tick)

    def discard(self, client: Watched) -> None:
        self._new.discard(client)
        self._old.discard(client)

    def _tick(self) -> None:
        for client in self._old:
            client.start()
        self._old, self._new = self._new, set()
        self._ticking = bool(self._old)
        if self._ticking:
            asyncio.get_running_loop().call_later(self._seconds, self._tick)
