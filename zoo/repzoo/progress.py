"""A progress bar that several threads can advance, and warnings that do not disturb it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["progress_bar", "say"]

_log = logging.getLogger("repzoo")


@contextmanager
def progress_bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in bytes if stderr is a terminal.

    Args:
        what: A label.
        total: The total number of bytes.
        done: The number of bytes that are already done.

    Yields:
        A function that advances the bar by a number of bytes, which may be negative. Any thread
        may call it.
    """
    lock = threading.Lock()
    # disable=None: only on a terminal.
    with tqdm(
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=what,
        leave=False,
        disable=None,
    ) as bar:

        def advance(count: int) -> None:
            with lock:
                bar.update(count)

        yield advance


def say(message: str, *arguments: object) -> None:
    """Log a warning without breaking a progress bar."""
    with tqdm.external_write_mode():
        _log.warning(message, *arguments)
