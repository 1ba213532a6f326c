"""Structured logs: one JSON object per line, for each request and for everything else logged.

    {"time": "2026-01-31T12:00:00.000Z", "level": "INFO", "event": "request",
     "request_id": "5f2c9a3e11d0-00000001", "client": "127.0.0.1", "method": "POST",
     "path": "/embed", "status": 200, "model": "simvae-mnist", "images": 1,
     "seconds": 0.0021, "queue_seconds": 0.0, "run_seconds": 0.0008}

`MEMBERS` lists all members. Images and keys are never logged.

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
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from queue import Full, Queue
from typing import Any

__all__ = ["MEMBERS", "LogWriter", "RequestLog"]

#: The members of a line by its ``event``, and their meanings. Members without a value are left out.
MEMBERS: Mapping[str, Mapping[str, str]] = {
    "any": {
        "time": "when it was logged, in UTC",
        "level": "`INFO`, `WARNING` or `ERROR`",
        "event": "`request` for a request that was answered or broken off, otherwise `log`",
        "request_id": "the ID that the response has in `X-Request-ID`",
        "trace_id": "the ID of its trace, if spans are recorded",
        "span_id": "the ID of its span, if spans are recorded",
    },
    "request": {
        "client": "the client's IP address",
        "method": "the HTTP method",
        "path": "the path",
        "key": "the name of the API key, if one was needed",
        "status": "the status of the response; 499 if the client hung up",
        "problem": "the last part of the problem's `type`",
        "model": "the name under which the model is served",
        "images": "how many images or latents it had",
        "seconds": "time from its head to its response",
        "queue_seconds": "time that it waited for batches",
        "run_seconds": "time in which the model ran",
    },
    "log": {
        "logger": "the name of the Python logger",
        "message": "what happened",
        "trace": "the Python traceback of an error in the server",
        "model": "the model that was loaded, replaced, unloaded, or could not be loaded",
        "old_revision": "the revision that it replaces, or that was unloaded",
        "revision": "the revision that is served now",
        "seconds": "how long loading or draining took",
        "in_flight": "when draining begins and ends: requests that are not answered yet",
        "pid": "the process ID of a worker that died",
        "exit": "how that worker ended, such as `SIGKILL` or `status 1`",
    },
}
_IDS = ("request_id", "trace_id", "span_id")

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
        ours = logging.getLogger("repzoo_serving")
        ours.setLevel(logging.INFO)
        ours.disabled = False  # BentoML disables the loggers that exist when it starts
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
        about = {"logger": record.name, "message": record.getMessage(), "trace": trace}
        members = {name: getattr(record, name, None) for name in (*MEMBERS["log"], *_IDS)} | about
        return _line(record.levelname, "log", members).rstrip("\n")


def _line(level: str, event: str, members: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    present = {name: value for name, value in members.items() if value is not None}
    return json.dumps({"time": time, "level": level, "event": event, **present}) + "\n"
