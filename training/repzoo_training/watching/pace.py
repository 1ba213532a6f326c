"""How often pictures are drawn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Pace"]

#: The share of a run's time that drawing may take, and the expected seconds of the first drawing.
SHARE = 0.03
FIRST = 0.5


class Pace:
    """Says when to draw again, so that drawing takes a small share of the time."""

    def __init__(self) -> None:
        self._ended, self._seconds = time.monotonic(), FIRST

    def due(self) -> bool:
        """Return whether enough time has passed since the last drawing."""
        return time.monotonic() - self._ended >= self._seconds / SHARE

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure how long a drawing takes."""
        began = time.monotonic()
        yield
        self._ended = time.monotonic()
        self._seconds = self._ended - began
