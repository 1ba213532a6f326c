"""Structured logs: one JSON object a line, for each request and for whatever else is logged.

    {"time": "2026-01-31T12:00:00.000Z", "level": "INFO", "event": "request",
     "request_id": "5f2c9a3e11d0-00000001", "client": "127.0.0.1", "method": "POST",
     "path": "/embed", "status": 200, "model": "simvae-mnist", "images": 1,
     "seconds": 0.0021, "queue_seconds": 0.0, "run_seconds": 0.0008}

``problem`` is there where the answer was one, ``trace_id`` and ``span_id`` where spans are made.
Neither images nor keys are ever logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

__all__ = ["RequestLog", "log_as_json"]

#: What a record may carry, to be found together with the line of its request.
_IDS = ("request_id", "trace_id", "span_id")


class RequestLog:
    """Writes a line for each request: all that ended in one turn of the event loop at once."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lines: list[str] = []

    def write(self, **members: Any) -> None:
        """Log one request; members that are None are left out."""
        line = _line("INFO", "request", members)
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        text, self._lines = "".join(self._lines), []
        self._stream.write(text)
        self._stream.flush()


def log_as_json() -> None:
    """Make JSON lines on stdout of all that this process logs by `logging`, from warnings on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter())
    handler.terminator = ""
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        trace = self.formatException(record.exc_info) if record.exc_info else None
        members = {"logger": record.name, "message": record.getMessage(), "trace": trace}
        members |= {name: getattr(record, name, None) for name in _IDS}
        return _line(record.levelname, "log", members)


def _line(level: str, event: str, members: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    there = {name: value for name, value in members.items() if value is not None}
    return json.dumps({"time": time, "level": level, "event": event, **there}) + "\n"
