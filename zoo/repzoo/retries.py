"""Trying again what a hub could not do just now: how often, and after how long."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from repzoo.errors import HubUnavailable, Offline
from repzoo.progress import say

__all__ = ["Interrupted", "Patience"]

T = TypeVar("T")


class Interrupted(Exception):
    """Somebody else stopped the work that this was a part of."""


@dataclass
class Patience:
    """Tries an action again while a hub is unavailable, and says what it waits for.

    The waits double from ``first`` to ``longest`` seconds, each up to a quarter longer or shorter,
    so that those whom a busy hub turned away do not all come back at once. What a hub asks for in
    ``Retry-After`` is granted, up to ``limit`` seconds.
    """

    attempts: int = 6
    first: float = 1.0
    longest: float = 30.0
    limit: float = 300.0
    #: set by whoever wants the waiting, and all the rest, to end.
    stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self, action: Callable[[], T]) -> T:
        """What ``action`` returns, at last.

        Raises:
            HubUnavailable: if the last attempt fails, or the hub wants to be left alone for long.
            Interrupted: if ``stop`` is set meanwhile.
        """
        failures = 0
        while True:
            try:
                return action()
            except HubUnavailable as error:
                failures += 1
                self.wait(error, failures)

    def wait(self, error: HubUnavailable, failures: int) -> None:
        """Wait after so many failures in a row, or raise ``error`` if that was the last."""
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
