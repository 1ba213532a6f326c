"""The HTTP/1.1 connection: uvicorn's protocol, with limits on clients and problem documents.

Differences from uvicorn's protocol:

- A request head of more than ``max_head_bytes`` gets 431. The same limit holds for the trailers of
  a chunked body and for the extensions of its chunks.
- A client that starts a request head has ``head_seconds`` to complete it. A connection on which
  no request is sent, or no response is read, is closed after ``idle_seconds``.
- An ``Upgrade`` header is ignored, and the body after it is read (RFC 9110, section 7.8). JDK
  clients send ``Upgrade: h2c`` by default.
- A client may shut down its sending side after a complete request; it still gets the response.
- Bytes that are not HTTP get a problem document.

Parsing stays in C (httptools). Time limits cost nothing per request: each connection has one slow
timer that looks whether anything has changed.
"""

from __future__ import annotations

import asyncio
from socket import SO_ERROR, SOL_SOCKET
from typing import Any
from weakref import WeakSet

import httptools
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from repzoo_serving.http.exchange import RequestIds, Response
from repzoo_serving.http.problems import Problem

__all__ = ["abort_all", "install"]

_ids = RequestIds()

#: How long a client that shut down its sending side may take to prove that it still reads.
_PROBE_SECONDS = 0.02

#: A client that reads a response makes progress if the unsent bytes shrink by this much.
_PROGRESS_BYTES = 65536


def install(max_head_bytes: int, head_seconds: float, idle_seconds: float) -> type[Connection]:
    """Have the HTTP servers of this process use `Connection` with these limits."""
    limits = {
        "max_head_bytes": max_head_bytes,
        "head_seconds": head_seconds,
        "idle_seconds": idle_seconds,
    }
    protocol = type("LimitedConnection", (Connection,), limits)
    auto.AutoHTTPProtocol = protocol  # what uvicorn's setting http="auto" refers to
    return protocol


def abort_all() -> None:
    """Abort all connections of this process, whatever their clients still wait for."""
    for connection in [*_open]:
        connection.transport.abort()


class Connection(HttpToolsProtocol):
    """One client's connection."""

    max_head_bytes: int
    head_seconds: float
    idle_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self.idle_seconds  # type: ignore[assignment]
        self.access_log = False  # the application logs requests
        #: Bytes received since the parser last completed a head or delivered a part of a body.
        self._pending_bytes = 0
        self._heads = 0
        #: The cycle that is being answered; `cycle` is the last one received.
        self._running: Any = None
        self._half_closed = False
        #: What `_check` saw last, and since when.
        self._seen: object = None
        self._since = 0.0

    # Receiving.

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._pending_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, Problem):
                cause = Problem("malformed-request", "the bytes received are not an HTTP request")
            self._refuse(cause)
        else:
            if self._pending_bytes > self.max_head_bytes:
                self._refuse(self._head_too_large())

    def on_headers_complete(self) -> None:
        # Only large reads are measured exactly: they may hold a body, too.
        if self._pending_bytes > self.max_head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.max_head_bytes:
                raise self._head_too_large()
        self._pending_bytes = 0
        self._heads += 1
        super().on_headers_complete()
        self.headers = []  # the trailers of a chunked body must not become headers

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        super().on_body(body)

    def _should_upgrade(self) -> bool:
        return True  # so uvicorn leaves the request to `_ignore_upgrade`

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request again, without its ``Upgrade`` header."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(Problem("method-not-allowed", "CONNECT: this server is not a proxy"))
            return
        version = self.parser.get_http_version().encode()
        head = [method, b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.scope["headers"]:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self._pending_bytes = 0
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"".join([*head, b"\r\n", rest]))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # Refusing.

    def _head_too_large(self) -> Problem:
        return Problem(
            "head-too-large",
            f"the request line and headers have more than {self.max_head_bytes} bytes",
            limit=self.max_head_bytes,
        )

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem and close the connection.

        Requests that were received completely before are answered first, and then it is closed.
        """
        if self.transport.is_closing():
            return
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()  # the request at fault
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                self.flow.pause_reading()
                return
            if cycle.response_started:
                self.transport.abort()
                return
        request_id = _ids.make(None)
        response = Response.of(problem, request_id)
        head = f"HTTP/1.1 {response.status} {problem.title}\r\nx-request-id: {request_id}\r\n"
        head += f"content-type: {response.media_type}\r\ncontent-length: {len(response.body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + response.body)
        self.transport.close()

    # Time limits.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _open.add(self)
        self._timer = self.loop.call_later(self._period, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        _open.discard(self)
        # uvicorn only tells the last of several pipelined requests.
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    @property
    def _period(self) -> float:
        return min(self.head_seconds, self.idle_seconds) / 4

    def _check(self) -> None:
        """Close the connection if the client has made no progress for too long."""
        unsent = self.transport.get_write_buffer_size()
        limit = self.idle_seconds
        seen: object
        if unsent:
            seen = ("unsent", unsent // _PROGRESS_BYTES)
        elif self.cycle is not None and not self.cycle.response_complete:
            seen = object()  # the request is being answered: its deadline counts
        else:
            seen = (self._heads, self._pending_bytes > 0)
            if self._pending_bytes:
                limit = self.head_seconds
        now = self.loop.time()
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif now - self._since >= limit:
            if not unsent and self._pending_bytes:
                self._refuse(
                    Problem(
                        "request-timeout",
                        f"the request head was not complete after {limit:g} seconds",
                    )
                )
            else:
                self.transport.abort()
            return
        self._timer = self.loop.call_later(self._period, self._check)

    # Half-closed connections.

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open if there is a complete request to answer."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        if not self._half_closed:
            self._half_closed = True
            self.loop.call_later(_PROBE_SECONDS, self._probe, True)
        return True

    def _probe(self, write: bool) -> None:
        """Find out whether the client still reads.

        A client that closed its whole connection looks the same as one that shut down its sending
        side, until something is written: then the first answers with a reset. An interim response
        may always be written, and clients skip it.
        """
        if self.transport.is_closing() or self.cycle.response_started:
            return
        if self._running.response_started:
            pass  # an interim response now would be in the middle of another
        elif write and self._running.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            write = False
        elif self.transport.get_extra_info("socket").getsockopt(SOL_SOCKET, SO_ERROR):
            self.transport.abort()
            return
        self.loop.call_later(_PROBE_SECONDS, self._probe, write)


_open: WeakSet[Connection] = WeakSet()
