"""One request and its answer, as ASGI carries them."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from repzoo_serving.http.problems import PROBLEM_TYPE, Problem
from repzoo_serving.http.timing import Timing, Trace

__all__ = ["Exchange", "Gone", "Message", "Receive", "Reply", "RequestIds", "Send", "plain_get"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class Gone(Exception):
    """The caller hung up before the answer."""


class RequestIds:
    """Names for requests: the caller's ``X-Request-ID``, where it is a decent one, or our own."""

    _DECENT = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)

    def __init__(self) -> None:
        # Random once, then counted: asking the system for random bytes every time costs more than
        # anything else here.
        self._random = secrets.token_hex(6)
        self._count = itertools.count(1)

    def make(self, given: bytes | None) -> str:
        if given is not None and self._DECENT.fullmatch(given):
            return given.decode("ascii")
        return f"{self._random}-{next(self._count):08x}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back."""

    status: int
    media_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, problem: Problem, request_id: str, **members: Any) -> Reply:
        """The reply that a problem is, with ``members`` besides its own."""
        body = problem.body(request_id, **members)
        return cls(problem.status, PROBLEM_TYPE, body, tuple(problem.headers))


@dataclass(slots=True)
class Exchange:
    """A request on its way; what is learned of it is written here, for the log and the metrics."""

    scope: Message
    receive: Receive
    headers: dict[bytes, bytes]
    request_id: str
    started: float = field(default_factory=time.perf_counter)
    timing: Timing = field(default_factory=Timing)
    #: name of the operation; empty if the path is none.
    operation: str = ""
    #: name of the served model; empty as long as it is not known.
    model: str = ""
    #: its revision.
    revision: str = ""
    #: images, or latents.
    images: int = 0
    #: name of the key that it came with.
    key: str | None = None
    #: kind of the problem that it was answered with.
    problem: str | None = None
    #: its span, where spans are made.
    trace: Trace | None = None

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    def header(self, name: bytes, default: str = "") -> str:
        """A header's value as text."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1")

    async def read(self, limit: int) -> bytes:
        """The body, counted while it arrives.

        Raises:
            Problem: 413 beyond ``limit`` bytes, 415 for a body that is compressed.
            Gone: if the caller hangs up.
        """
        encoding = self.header(b"content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Problem(
                "unsupported-media-type", f"Content-Encoding {encoding}: send the body as it is"
            )
        # The HTTP server has checked that the length, where it is given, is a number.
        if int(self.headers.get(b"content-length", b"0")) > limit:
            raise _too_many_bytes(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_many_bytes(limit)
            if not message.get("more_body", False):
                self.timing.read = time.perf_counter() - self.started
                return b"".join(parts)

    async def send(
        self, send: Send, reply: Reply, more_headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send the answer."""
        headers = [(b"x-request-id", self.request_id.encode()), *reply.headers, *more_headers]
        if reply.status != 204:
            headers += [
                (b"content-type", reply.media_type.encode()),
                (b"content-length", str(len(reply.body)).encode()),
            ]
        if self.model:
            total = time.perf_counter() - self.started
            headers.append((b"server-timing", self.timing.header(total)))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        body = b"" if self.method == "HEAD" else reply.body
        await send({"type": "http.response.body", "body": body})


def plain_get(scope: Message, send: Send) -> tuple[Message, Send]:
    """A WebSocket's handshake as the GET that it is too, and how to answer that.

    Whoever does not know an ``Upgrade`` ignores it (RFC 9110, 7.8); nothing here would be one.
    """

    async def send_denial(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return {**scope, "type": "http", "method": "GET"}, send_denial


def _too_many_bytes(limit: int) -> Problem:
    return Problem("too-many-bytes", f"the body has more than {limit} bytes", limit=limit)
