"""Retries for hubs that are unavailable: how often, and after which delay."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from repzoo.errors import HubUnavailable, Offline
from repzoo.progress import say

__all__ = ["Interrupted", "Patience", "within"]

T = TypeVar("T")


class Interrupted(Exception):
    """The work was stopped by another thread."""


@dataclass
class Patience:
    """Retries an action while a hub is unavailable, and logs what it waits for.

    Delays double from ``first`` to ``longest`` seconds. Each is up to a quarter longer or shorter,
    so that clients that a busy hub turned away do not all return at once. A ``Retry-After`` of up
    to ``limit`` seconds is respected.
    """

    attempts: int = 6
    first: float = 1.0
    longest: float = 30.0
    limit: float = 300.0
    #: Set this to end all waiting and work.
    stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self, action: Callable[[], T]) -> T:
        """Call ``action`` until it succeeds and return its result.

        Raises:
            HubUnavailable: If the last attempt fails, or ``Retry-After`` is over the limit.
            Interrupted: If ``stop`` is set.
        """
        failures = 0
        while True:
            try:
                return action()
            except HubUnavailable as error:
                failures += 1
                self.wait(error, failures)

    def wait(self, error: HubUnavailable, failures: int) -> None:
        """Wait after a number of consecutive failures, or raise ``error`` after the last one."""
        asked = error.retry_after or 0.0
        if isinstance(error, Offline) or failures >= self.attempts:
            raise error
        if asked > self.limit:
            raise HubUnavailable(f"{error}; it asks to try again in {asked:.0f} s", asked)
        delay = min(self.longest, self.first * 2 ** (failures - 1)) * random.uniform(0.75, 1.25)
        delay = max(delay, asked)
        say("waiting %.*f s: %s", 1 if delay < 10 else 0, delay, error)
        if self.stop.wait(delay):
            raise Interrupted


def within(seconds: float, where: str, action: Callable[[], T]) -> T:
    """Call ``action`` once, in a thread that is left behind if it takes too long.

    A connection is tried for each address of a host in turn, so its own timeout is too long where
    a firewall drops packets.

    Raises:
        HubUnavailable: If it takes longer than ``seconds``; the message names ``where``.
    """
    result = Future[T]()

    def run() -> None:
        try:
            result.set_result(action())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="within", daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError:
        if result.done():
            raise
        raise HubUnavailable(
            f"{where}: no answer within {seconds:g} s; is there a network?"
        ) from None
