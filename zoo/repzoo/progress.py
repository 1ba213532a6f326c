"""One progress bar for one piece of work, however many threads do it."""

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
    """Show how many bytes of ``total`` are done, and how fast, if stderr is a terminal.

    Gives the function to call, from any thread, with how many more have been done; a negative
    number takes some back.
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
    """Log a warning without running into a progress bar."""
    with tqdm.external_write_mode():
        _log.warning(message, *arguments)
