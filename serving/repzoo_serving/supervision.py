"""Workers that died: the supervisor logs each, and counts them in a file for `/metrics`.

BentoML looks for dead workers every ten seconds and starts new ones, without a word. In a container
it ends the server instead, so that the orchestrator starts another container.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from repzoo.files import write_atomically

from repzoo_serving.telemetry.logs import LogWriter

__all__ = ["Deaths", "watching_workers"]

_logger = logging.getLogger("repzoo_serving")


class Deaths:
    """The number of workers of one server that died, in a file that all of its processes share."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> int | None:
        """Return the number, or None if it is unknown."""
        try:
            return int(self._file.read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, number: int) -> None:
        """Write the number. Only the supervisor does that."""
        write_atomically(self._file, str(number).encode())


@contextmanager
def watching_workers(deaths: Deaths, writer: LogWriter) -> Iterator[None]:
    """Log and count the workers that die while BentoML serves in this process.

    Args:
        deaths: Where they are counted, from 0.
        writer: Writes what this process logs, from the start of the first worker.
    """
    from bentoml import serving
    from circus import controller  # type: ignore[import-untyped]

    create, handler = serving.create_watcher, controller.SysHandler
    deaths.write(0)

    def create_watcher(*args: Any, **options: Any) -> Any:
        writer.capture()  # only now, because BentoML configures logging before
        hooks = {"after_reap": (partial(_after_reap, deaths), True)}
        return create(*args, hooks=hooks, **options)

    class Insistent(handler):  # type: ignore[misc, valid-type]
        """Repeats a signal to stop, because circus forgets it while it starts a worker."""

        def quit(self) -> None:
            super().quit()
            again = partial(self.controller.loop.call_later, 0.5, self.quit)
            self.controller.loop.add_callback_from_signal(again)

    # BentoML has no public way to do either.
    serving.create_watcher, controller.SysHandler = create_watcher, Insistent
    try:
        yield
    finally:
        serving.create_watcher, controller.SysHandler = create, handler
        writer.close(1.0)


def _after_reap(
    deaths: Deaths, *, watcher: Any, process_pid: int, exit_code: int | None, **_: Any
) -> None:
    if not watcher.is_active():  # the server is shutting down
        return
    deaths.write((deaths.read() or 0) + 1)
    exit_ = _exit(exit_code)
    then = "a new one starts" if watcher.respawn else "the server exits"
    _logger.error(
        "worker %d died: %s; %s",
        process_pid,
        exit_,
        then,
        extra={"pid": process_pid, "exit": exit_},
    )


def _exit(code: int | None) -> str:
    """Return how a process ended: ``SIGKILL``, or ``status 1``."""
    if code is None or code >= 0:
        return "unknown" if code is None else f"status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
