"""The ASGI application: paths, formats, the deadline, and a problem document for every error.

It is a bare callable. BentoML inspects the routes of a Starlette application that it mounts and
answers what is not among them by itself, with errors that are no problem documents.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from repzoo.encoder import Encoder
from repzoo.errors import InvalidInput, RepzooError

from repzoo_serving import requests
from repzoo_serving.batching import QueueFull
from repzoo_serving.engine import OPERATIONS, Operation, ServedModel
from repzoo_serving.problems import PROBLEM_TYPE, Problem
from repzoo_serving.responses import JSON_TYPE, Answer, choose
from repzoo_serving.settings import Limits

__all__ = ["App"]

T = TypeVar("T")
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_logger = logging.getLogger("repzoo_serving")

#: Bodies of more bytes than this are read, and answers of more numbers or pixels written, in a
#: thread. Below it, handing them over takes longer than doing it.
_LARGE_BODY = 65536
_LARGE_ANSWER = 4096

#: A caller who is refused for load is asked to come back after so many seconds.
_RETRY_AFTER = (b"retry-after", b"1")

_INTERNAL = Problem("internal", "the log of the server says more, under the request_id")


class _Gone(Exception):
    """The caller hung up before the request was complete."""


@dataclass(frozen=True)
class _Reply:
    status: int
    media_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class App:
    """Version 1 of the wire over a set of loaded models.

    Args:
        limits: what requests may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._models: dict[str, ServedModel] = {}
        # Random once, then counted: asking the system for random bytes every time costs more than
        # anything else here.
        self._id = secrets.token_hex(6)
        self._count = itertools.count(1)
        # Decoding lets go of the interpreter lock, so it gains from every core.
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")

    @property
    def ready(self) -> bool:
        return bool(self._models)

    def load(self, encoders: Iterable[Encoder]) -> None:
        """Serve these models, each under its name, once it has run.

        Raises:
            InvalidInput: if two have the same name.
        """
        models: dict[str, ServedModel] = {}
        for encoder in encoders:
            model = ServedModel(encoder, self._limits, self._pool)
            if model.name in models:
                raise InvalidInput(f"two of the models are called {model.name}")
            model.warm_up()
            models[model.name] = model
        self._models = models

    def close(self) -> None:
        """Stop the threads, once what they do is done."""
        for model in self._models.values():
            model.close()
        self._pool.shutdown()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        request_id = f"{self._id}-{next(self._count):08x}"
        try:
            reply = await self._reply(scope, receive, request_id)
        except _Gone:
            return
        except Problem as problem:
            reply = _as_reply(problem, request_id)
        except Exception:
            _logger.exception("request %s failed", request_id)
            reply = _as_reply(_INTERNAL, request_id)
        await _send(send, reply, request_id, head=scope["method"] == "HEAD")

    async def _reply(self, scope: Message, receive: Receive, request_id: str) -> _Reply:
        headers = {name.lower(): value for name, value in scope["headers"]}
        path: str = scope["path"]
        operation = OPERATIONS.get(path.removeprefix("/")) if path.startswith("/") else None
        if operation is not None:
            _require_method(scope["method"], ("POST",))
            return await self._operate(operation, headers, receive, request_id)
        if path == "/models" or path.startswith("/models/"):
            _require_method(scope["method"], ("GET", "HEAD"))
            choose(_accept(headers), tensors_too=False)
            return _Reply(200, JSON_TYPE, self._describe(path.removeprefix("/models")))
        there = ", ".join(f"POST /{name}" for name in OPERATIONS)
        raise Problem("not-found", f"{path} is not known; there are {there}, GET /models")

    def _describe(self, name: str) -> bytes:
        if name:
            return json.dumps(self._model(name.removeprefix("/")).describe()).encode()
        return json.dumps({"models": [m.describe() for m in self._models.values()]}).encode()

    def _model(self, name: str) -> ServedModel:
        if not self._models:
            raise Problem("unavailable", "no model is loaded yet", headers=[_RETRY_AFTER])
        if name not in self._models:
            raise Problem(
                "unknown-model", f"{name!r} is not served here; there: {', '.join(self._models)}"
            )
        return self._models[name]

    async def _operate(
        self, operation: Operation, headers: dict[bytes, bytes], receive: Receive, request_id: str
    ) -> _Reply:
        seconds = self._limits.deadline_seconds
        try:
            async with asyncio.timeout(seconds) as deadline:
                media_type = choose(_accept(headers), tensors_too=True)
                body = await self._read(headers, receive)
                answer = await self._answer(operation, headers, body, request_id)
                return _Reply(200, media_type, await self._write(answer, media_type))
        except TimeoutError:
            if not deadline.expired():
                raise
            # The connection ends too: the rest of a body that is not read must not be taken for
            # another request.
            raise Problem(
                "deadline-exceeded",
                f"the request was not complete and answered after {seconds:g} seconds",
                headers=[(b"connection", b"close")],
            ) from None

    async def _answer(
        self, operation: Operation, headers: dict[bytes, bytes], body: bytes, request_id: str
    ) -> Answer:
        parse = partial(
            requests.parse,
            body,
            headers.get(b"content-type", b""),
            operation.options,
            operation.payload,
            max_items=self._limits.max_images,
        )
        request: requests.Request[Any] = (
            parse() if len(body) <= _LARGE_BODY else await self._in_pool(parse)
        )
        model = self._model(request.options.model)
        try:
            answer: Answer = await operation.answer(model, request)
        except QueueFull as full:
            raise Problem(
                "overloaded", f"{full}; try again later", headers=[_RETRY_AFTER]
            ) from None
        except RepzooError as error:
            raise Problem.of(error) from error
        return Answer({**answer.facts, "request_id": request_id}, answer.arrays)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The body, counted while it arrives."""
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if encoding.lower() != "identity":
            raise Problem(
                "unsupported-media-type", f"Content-Encoding {encoding}: send the body as it is"
            )
        limit = self._limits.max_bytes
        # The HTTP server has checked that the length, where it is given, is a number.
        if int(headers.get(b"content-length", b"0")) > limit:
            raise _too_many_bytes(limit)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            body += message.get("body", b"")
            if len(body) > limit:
                raise _too_many_bytes(limit)
            if not message.get("more_body", False):
                return bytes(body)

    async def _write(self, answer: Answer, media_type: str) -> bytes:
        if sum(array.size for array in answer.arrays.values()) <= _LARGE_ANSWER:
            return answer.body(media_type)
        return await self._in_pool(partial(answer.body, media_type))

    async def _in_pool(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


async def _send(send: Send, reply: _Reply, request_id: str, *, head: bool) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [
                (b"content-type", reply.media_type.encode()),
                (b"content-length", str(len(reply.body)).encode()),
                (b"x-request-id", request_id.encode()),
                *reply.headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": b"" if head else reply.body})


def _as_reply(problem: Problem, request_id: str) -> _Reply:
    return _Reply(problem.status, PROBLEM_TYPE, problem.body(request_id), tuple(problem.headers))


def _require_method(method: str, allowed: tuple[str, ...]) -> None:
    if method not in allowed:
        names = ", ".join(allowed)
        raise Problem(
            "method-not-allowed",
            f"{method} is not allowed here; {names} is",
            headers=[(b"allow", names.encode())],
        )


def _accept(headers: dict[bytes, bytes]) -> str:
    return headers.get(b"accept", b"").decode("latin-1")


def _too_many_bytes(limit: int) -> Problem:
    return Problem("too-many-bytes", f"the body has more than {limit} bytes", limit=limit)
