"""An event loop in a background thread, for callers without an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

from repzoo_client.errors import ClientClosed

__all__ = ["Portal"]

T = TypeVar("T")

#: The longest time that `Portal.close` waits for connections to close, in seconds.
_CLOSING = 5.0

_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


class Portal:
    """Runs coroutines for any thread, in an event loop that starts with the first of them.

    A forked child has neither the loop nor its thread. There the portal starts over, and leaves
    the parent's connections alone.
    """

    def __init__(self) -> None:
        self._closed = False
        self.start_over()
        _portals.add(self)

    def start_over(self) -> None:
        """Forget the loop and its thread without closing them."""
        self._lock = threading.Lock()  # another thread may have held the old one during the fork
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine. Cancelling the future cancels the coroutine."""
        with self._lock:
            if self._closed:
                work.close()
                raise ClientClosed("the client is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="repzoo-client", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result. Cancel it if this thread is interrupted."""
        future = self.submit(work)
        try:
            return self.wait(future)
        except BaseException:
            future.cancel()
            raise

    def wait(self, future: concurrent.futures.Future[T]) -> T:
        """Return the result of a coroutine that was submitted.

        Raises:
            ClientClosed: If the portal was closed in the meantime.
        """
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self._closed:
                raise ClientClosed("the client was closed during the call") from None
            raise

    def close(self) -> None:
        """Cancel everything that still runs, and end the loop with all its connections."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            # The garbage collector may call this from the loop's own thread.
            if self._thread is not threading.current_thread():
                self._thread.join(_CLOSING)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _after_fork() -> None:
    for portal in list(_portals):
        portal.start_over()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)
