"""Handling of SIGTERM and Ctrl-C: remembered until the current step is finished and saved."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from torch.distributed import is_torchelastic_launched

from repzoo_training.distributed.gather import rank

__all__ = ["Stop"]


class Stop:
    """Remembers SIGTERM and Ctrl-C, so that the current step is finished and saved first.

    A second Ctrl-C ends the process at once. Outside the main thread, Python allows no signal
    handlers, and signals keep their usual effect.

    If ``torchrun`` started this process, its disappearance counts as SIGTERM. Otherwise the process
    would keep running and hold the lock of the run.
    """

    def __init__(self) -> None:
        self._received = 0
        self._launcher = os.getppid() if is_torchelastic_launched() else None
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

    @property
    def requested(self) -> int:
        """The signal that requested the end, or 0."""
        if self._launcher not in (None, os.getppid()):
            return signal.SIGTERM
        return self._received

    def exit(self, number: int, message: str) -> None:
        """Exit with the status of signal ``number``; the first process prints ``message``."""
        if rank() == 0:
            print(message, file=sys.stderr)
        raise SystemExit(128 + number)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
