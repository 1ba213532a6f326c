"""One line on stderr per request, and a summary.

10:21:07  200    0.031 s  10.9 MiB out  ci        GET /zoo/simvae-mnist/resolve/main/encoder.onnx
"""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from repzoo.report import format_bytes

__all__ = ["GONE", "AccessLog", "configure_log"]

#: The status of a request whose sender has disconnected.
GONE = 499

_log = logging.getLogger("repzoo.hub_server")


def configure_log() -> None:
    """Log to stderr, with the time of day."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    _log.handlers = [handler]
    _log.setLevel(logging.INFO)
    _log.propagate = False


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
