"""POST requests of the operations: read, parse, run and encode them within the deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from repzoo.errors import RepzooError

from repzoo_serving.http.exchange import Exchange, Gone, Response
from repzoo_serving.http.hangups import Hangups, Watched
from repzoo_serving.http.problems import RETRY_AFTER, Problem
from repzoo_serving.http.timing import Timing
from repzoo_serving.models.batching import QueueFull
from repzoo_serving.models.registry import Models
from repzoo_serving.models.served import ServedModel
from repzoo_serving.settings import Limits
from repzoo_serving.telemetry.metrics import Metrics
from repzoo_serving.wire import openai_api
from repzoo_serving.wire.request_bodies import OPERATIONS, PAYLOADS, Bounds, Request, parse
from repzoo_serving.wire.response_bodies import Result, choose_media_type

__all__ = ["PATHS", "Operation", "Operations"]

T = TypeVar("T")

#: Larger bodies (in bytes) and results (in numbers) are parsed and encoded in a thread. For smaller
#: ones the handover would take longer than the work.
_LARGE_BODY = 65536
_LARGE_RESULT = 4096


class Parse(Protocol):
    """Parses and checks a body of a content type."""

    def __call__(self, body: bytes, content_type: bytes, *, bounds: Bounds) -> Request[Any]: ...


@dataclass(frozen=True)
class Operation:
    """A POST endpoint: how to parse its requests, run them, and encode the results."""

    parse: Parse
    run: Callable[[ServedModel, Request[Any], Timing], Any]
    encode: Callable[[Result, str], bytes] = Result.encode
    #: Whether the response can be safetensors, too.
    tensors_too: bool = True


#: The operations by path.
PATHS: Mapping[str, Operation] = {
    f"/{name}": Operation(
        partial(parse, options=options, payloads=PAYLOADS.get(name, ("images",))),
        getattr(ServedModel, name),
    )
    for name, options in OPERATIONS.items()
} | {
    "/v1/embeddings": Operation(openai_api.parse, ServedModel.embed, openai_api.encode, False),
}


class Operations:
    """Handles the requests of all operations.

    Args:
        models: The served models.
        limits: Limits of a request.
        pool: Where large bodies are parsed and large results encoded.
        metrics: Where queueing times are recorded.
    """

    def __init__(self, models: Models, limits: Limits, pool: Executor, metrics: Metrics) -> None:
        self._models = models
        self._limits = limits
        self._pool = pool
        self._metrics = metrics
        self._hangups = Hangups()
        self._bounds = Bounds(limits.max_images)

    async def handle(self, operation: Operation, exchange: Exchange) -> Response:
        """Return the response to a request.

        If the deadline passes or the client hangs up, its rows leave the queue at once.

        Raises:
            Problem: If the request is invalid, or with 504 if the deadline passes.
            Gone: If the client hung up.
        """
        seconds = self._limits.deadline_seconds
        client: Watched | None = None
        try:
            async with asyncio.timeout(seconds) as deadline:
                exchange.budget.require_room()
                accept = exchange.header(b"accept")
                media_type = choose_media_type(accept, tensors_too=operation.tensors_too)
                body = await exchange.read(self._limits.max_bytes)
                with self._hangups.watch(exchange.receive, partial(_expire, deadline)) as client:
                    result = await self._run(operation, exchange, body)
                    start = time.perf_counter()
                    body = await self._encode(operation, result, media_type)
                    exchange.timing.write = time.perf_counter() - start
                return Response(200, media_type, body)
        except TimeoutError:
            if client is not None and client.gone:
                raise Gone from None
            if not deadline.expired():
                raise
            # The connection must be closed: the unread rest of a body is not another request.
            raise Problem(
                "deadline-exceeded",
                f"the request was not received and answered within {seconds:g} seconds",
                headers=[(b"connection", b"close")],
            ) from None

    async def _run(self, operation: Operation, exchange: Exchange, body: bytes) -> Result:
        start = time.perf_counter()
        if self._bounds.max_row != self._models.max_latent_dim:
            self._bounds = Bounds(self._limits.max_images, self._models.max_latent_dim)
        parse = partial(
            operation.parse,
            body,
            exchange.headers.get(b"content-type", b""),
            bounds=self._bounds,
        )
        request = parse() if len(body) <= _LARGE_BODY else await self._in_pool(parse)
        exchange.timing.decode = time.perf_counter() - start
        model = self._models.get(request.options.model)
        exchange.model = model.name
        exchange.revision = model.encoder.revision
        exchange.images = request.items
        with self._models.hold(model):
            try:
                result: Result = await operation.run(model, request, exchange.timing)
            except QueueFull as full:
                raise Problem(
                    "overloaded", f"{full}; try again later", headers=[RETRY_AFTER]
                ) from None
            except RepzooError as error:
                raise Problem.of(error) from error
        key = (exchange.operation, model.name)
        self._metrics.queue_seconds[key].observe(exchange.timing.queue)
        facts = {**result.facts, "request_id": exchange.request_id}
        return replace(result, facts=facts, encoding=request.options.encoding_format)

    async def _encode(self, operation: Operation, result: Result, media_type: str) -> bytes:
        encode = partial(operation.encode, result, media_type)
        if sum(array.size for array in result.arrays.values()) <= _LARGE_RESULT:
            return encode()
        return await self._in_pool(encode)

    async def _in_pool(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


def _expire(deadline: asyncio.Timeout) -> None:
    """End a request at once, because its client hung up."""
    if not deadline.expired():
        deadline.reschedule(0.0)
