"""One request and its response, as ASGI carries them."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from repzoo_serving.http.problems import PROBLEM_TYPE, RETRY_AFTER, Problem
from repzoo_serving.http.timing import Timing, Trace

__all__ = ["Budget", "Exchange", "Gone", "Message", "Receive", "RequestIds", "Response", "Send"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

#: Larger responses count as in flight until the client has read most of them.
_LARGE_RESPONSE = 65536


class Gone(Exception):
    """The client hung up before the response."""


class RequestIds:
    """IDs of requests: the client's ``X-Request-ID`` if it is valid, or a new one."""

    _VALID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)

    def __init__(self) -> None:
        # Random once, then counted: system randomness for every request would cost more than
        # everything else here.
        self._random = secrets.token_hex(6)
        self._count = itertools.count(1)

    def make(self, given: bytes | None) -> str:
        if given is not None and self._VALID.fullmatch(given):
            return given.decode("ascii")
        return f"{self._random}-{next(self._count):08x}"


class Budget:
    """The bytes that all requests of a worker may hold: bodies being read, responses being sent.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def require_room(self) -> None:
        """Refuse work while the budget is exceeded.

        Raises:
            Problem: 429 if requests hold too many bytes.
        """
        if self.held > self._limit:
            raise Problem(
                "overloaded",
                "bodies in transfer fill the memory that the server may use; try again later",
                headers=[RETRY_AFTER, (b"connection", b"close")],
            )


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response."""

    status: int
    media_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, problem: Problem, request_id: str, **members: Any) -> Response:
        """The response for a problem, with additional ``members`` in its document."""
        body = problem.body(request_id, **members)
        return cls(problem.status, PROBLEM_TYPE, body, tuple(problem.headers))


@dataclass(slots=True)
class Exchange:
    """A request in progress, and what the log and the metrics need to know about it."""

    scope: Message
    receive: Receive
    headers: dict[bytes, bytes]
    #: The path below the prefix at which the server is mounted.
    path: str
    request_id: str
    budget: Budget
    started: float = field(default_factory=time.perf_counter)
    timing: Timing = field(default_factory=Timing)
    #: Name of the operation; empty if the path has none.
    operation: str = ""
    #: Name and revision of the served model; empty until it is known.
    model: str = ""
    revision: str = ""
    #: Number of images or latents.
    images: int = 0
    #: Name of the API key, if one was needed.
    key: str | None = None
    #: Whether the supervisor sent it, which is not a client.
    own: bool = False
    #: Kind of the problem, if the response is a problem document.
    problem: str | None = None
    #: The request's span, if spans are recorded.
    trace: Trace | None = None
    #: Bytes of its body.
    held: int = 0

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method

    def header(self, name: bytes, default: str = "") -> str:
        """Return a header's value as text."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1")

    async def read(self, limit: int) -> bytes:
        """Return the body; its bytes are counted while they arrive.

        Raises:
            Problem: 413 if the body has more than ``limit`` bytes, 415 if it is compressed, 429 if
                the budget is exceeded.
            Gone: If the client hangs up.
        """
        encoding = self.header(b"content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Problem(
                "unsupported-media-type",
                f"Content-Encoding {encoding} is not supported; send the body uncompressed",
            )
        # The HTTP server has checked that the length is a number.
        if int(self.headers.get(b"content-length", b"0")) > limit:
            raise _too_many_bytes(limit)
        parts: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            self.held += len(parts[-1])
            self.budget.held += len(parts[-1])
            self.budget.require_room()
            if self.held > limit:
                raise _too_many_bytes(limit)
            if not message.get("more_body", False):
                self.timing.read = time.perf_counter() - self.started
                return b"".join(parts)

    async def send(
        self, send: Send, response: Response, more_headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send the response."""
        headers = [(b"x-request-id", self.request_id.encode()), *response.headers, *more_headers]
        if response.status != 204:
            headers += [
                (b"content-type", response.media_type.encode()),
                (b"content-length", str(len(response.body)).encode()),
            ]
        if self.model:
            total = time.perf_counter() - self.started
            headers.append((b"server-timing", self.timing.header(total)))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        body = b"" if self.method == "HEAD" else response.body
        if len(body) <= _LARGE_RESPONSE:
            await send({"type": "http.response.body", "body": body})
            return
        self.budget.held += len(body)
        try:
            # The second message waits until the client has read most of the first.
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.budget.held -= len(body)


def _too_many_bytes(limit: int) -> Problem:
    return Problem("too-many-bytes", f"the body has more than {limit} bytes", limit=limit)
