"""SIGTERM and Ctrl-C, remembered until a step is finished and saved."""

from __future__ import annotations

import signal
import sys
from types import FrameType

__all__ = ["Stop"]


class Stop:
    """Remembers SIGTERM and Ctrl-C, so that a step is finished and saved before the end.

    A second Ctrl-C ends at once. Outside the main thread, where Python allows no handlers, signals
    stay as they are.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> Stop:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._remember)
        except ValueError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def exit(self, message: str) -> None:
        """End the process as the signal would have, with a message."""
        assert self.requested is not None
        print(message, file=sys.stderr)
        raise SystemExit(128 + self.requested)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
