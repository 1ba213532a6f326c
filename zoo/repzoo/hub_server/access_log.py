"""One line on stderr per request, and a summary.

10:21:07  200    0.031 s  10.9 MiB out  ci        GET /zoo/simvae-mnist/resolve/main/encoder.onnx
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import threading
import time
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from repzoo.report import format_bytes

__all__ = ["GONE", "AccessLog", "LogWriter", "configure_log"]

#: The status of a request whose sender has disconnected.
GONE = 499

_log = logging.getLogger("repzoo.hub_server")


class LogWriter:
    """Writes to stderr in a thread, so that a reader that stalls does not stop the server.

    Lines that do not fit into the queue are dropped and counted.
    """

    def __init__(self) -> None:
        self._lines: queue.Queue[bytes] = queue.Queue(10_000)
        self._dropped = 0
        # A daemon, because a stalled write must not keep the process alive.
        threading.Thread(target=self._run, daemon=True).start()

    def write(self, text: str) -> None:
        """Add text to the queue."""
        try:
            self._lines.put_nowait(text.encode(errors="backslashreplace"))
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Do nothing: the thread writes everything at once."""

    def close(self, seconds: float) -> None:
        """Wait until the queue is written, but no longer than ``seconds``."""
        end = time.monotonic() + seconds
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            dropped, self._dropped = self._dropped, 0
            if dropped:
                line = b"(%d lines were dropped: the log is not read)\n%b" % (dropped, line)
            try:
                while line:
                    line = line[os.write(2, line) :]
            except OSError:
                pass  # the reader is gone
            self._lines.task_done()


def configure_log(writer: LogWriter) -> None:
    """Log requests, and warnings of this package and uvicorn, with the time of day."""
    handler = logging.StreamHandler(writer)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    for logger in (_log, logging.getLogger("repzoo"), logging.getLogger("uvicorn")):
        logger.handlers = [handler]
        logger.propagate = False
    _log.setLevel(logging.INFO)


class AccessLog:
    """Counts requests and bytes, and gives each response a request ID."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._statuses: Counter[int] = Counter()
        self._in = 0
        self._out = 0

    @property
    def summary(self) -> str:
        """The totals of all requests."""
        classes: Counter[str] = Counter()
        for status, number in self._statuses.items():
            classes[f"{status // 100}xx"] += number
        each = ", ".join(f"{number} {kind}" for kind, number in sorted(classes.items()))
        return (
            f"{self._statuses.total()} requests ({each or 'none'}),"
            f" {format_bytes(self._in)} in, {format_bytes(self._out)} out"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status, received, sent = 0, 0, 0
        identity = secrets.token_hex(8)

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counting_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", identity.encode())]
                headers += [
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counting_receive, counting_send)
        finally:
            self._statuses[status] += 1
            self._in += received
            self._out += sent
            seconds = time.monotonic() - start
            moved = f"{format_bytes(sent)} out"
            if received:
                moved = f"{format_bytes(received)} in"
            visitor = scope.get("state", {}).get("visitor") or "-"
            # Without the query, which may contain a signature. Escaped, so that a path cannot forge
            # another line.
            path = scope["path"].encode("unicode_escape").decode()
            _log.info(
                "%s  %7.3f s  %14s  %-12s  %s %s  [%s]",
                "cut" if status in (0, GONE) else status,
                seconds,
                moved,
                visitor,
                scope["method"],
                path[:300],
                identity,
            )
