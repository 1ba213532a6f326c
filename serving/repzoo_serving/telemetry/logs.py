"""Structured logs: one JSON object per line, for each request and for everything else logged.

    {"time": "2026-01-31T12:00:00.000Z", "level": "INFO", "event": "request",
     "request_id": "5f2c9a3e11d0-00000001", "client": "127.0.0.1", "method": "POST",
     "path": "/embed", "status": 200, "model": "simvae-mnist", "images": 1,
     "seconds": 0.0021, "queue_seconds": 0.0, "run_seconds": 0.0008}

``problem`` is present if the response was a problem, ``trace_id`` and ``span_id`` if spans are
recorded. Images and keys are never logged.

Lines are written by a separate thread. If their reader stalls, requests go on: lines that find
the queue full are dropped, and counted in ``repzoo_log_lines_dropped_total``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import threading
from contextlib import suppress
from datetime import UTC, datetime
from queue import Full, Queue
from typing import Any

__all__ = ["LogWriter", "RequestLog"]

#: Members of a log record: what connects it with the line of its request, and facts about a model
#: that is loaded, replaced or unloaded.
_IDS = ("request_id", "trace_id", "span_id")
_FACTS = ("model", "old_revision", "revision", "seconds")

_QUEUED_WRITES = 1024
_END = ("", 0)


class LogWriter:
    """Writes lines in a separate thread. It may be used from any thread.

    Args:
        as_json: Write JSON to stdout; otherwise write text to stderr.
        descriptor: Where to write instead.
        queued: Number of writes that may wait.

    Attributes:
        dropped: Number of lines dropped.
    """

    def __init__(
        self, *, as_json: bool, descriptor: int | None = None, queued: int = _QUEUED_WRITES
    ) -> None:
        self._as_json = as_json
        # Not sys.stdout: its lock would be held while the reader stalls, also at exit.
        self._descriptor = (1 if as_json else 2) if descriptor is None else descriptor
        self._queue: Queue[tuple[str, int]] = Queue(queued)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.dropped = 0

    def write(self, text: str, lines: int = 1) -> None:
        """Write complete lines soon, or drop them if too many wait already."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                    self._thread.start()
        try:
            self._queue.put_nowait((text, lines))
        except Full:
            self.dropped += lines

    def capture(self) -> None:
        """Write what this process logs through `logging`: all of ours, and others' warnings."""
        handler = _Handler(self)
        if self._as_json:
            handler.setFormatter(_JSONFormatter())
        else:
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root = logging.getLogger()
        root.handlers = [handler]
        root.setLevel(logging.WARNING)
        logging.getLogger("repzoo_serving").setLevel(logging.INFO)
        for name in ("bentoml", "circus", "uvicorn.error"):  # BentoML gives them handlers
            logger = logging.getLogger(name)
            logger.handlers = []
            logger.propagate = True

    def close(self, seconds: float) -> None:
        """Write what waits, if that takes no longer than ``seconds``."""
        if self._thread is not None:
            with suppress(Full):
                self._queue.put_nowait(_END)
                self._thread.join(seconds)

    def _run(self) -> None:
        for text, lines in iter(self._queue.get, _END):
            try:
                self._write(text.encode(errors="backslashreplace"))
            except OSError:
                self.dropped += lines

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])


class RequestLog:
    """Writes a line per request. Lines of one turn of the event loop share a write."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._lines: list[str] = []

    def write(self, **members: Any) -> None:
        """Log a request; members that are None are left out."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(_line("INFO", "request", members))

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._writer.write("".join(lines), len(lines))


class _Handler(logging.Handler):
    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(self.format(record) + "\n")


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        trace = self.formatException(record.exc_info) if record.exc_info else None
        members = {"logger": record.name, "message": record.getMessage(), "trace": trace}
        members |= {name: getattr(record, name, None) for name in (*_IDS, *_FACTS)}
        return _line(record.levelname, "log", members).rstrip("\n")


def _line(level: str, event: str, members: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    present = {name: value for name, value in members.items() if value is not None}
    return json.dumps({"time": time, "level": level, "event": event, **present}) + "\n"
