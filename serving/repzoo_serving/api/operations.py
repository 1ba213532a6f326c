"""POST requests of the operations: read, parsed, run and written, within the deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from repzoo.errors import RepzooError

from repzoo_serving.http.exchange import Exchange, Gone, Reply
from repzoo_serving.http.hangups import Hangups, Watched
from repzoo_serving.http.problems import RETRY_AFTER, Problem
from repzoo_serving.models.batching import QueueFull
from repzoo_serving.models.registry import Models
from repzoo_serving.models.served import Operation
from repzoo_serving.settings import Limits
from repzoo_serving.telemetry.metrics import Metrics
from repzoo_serving.wire import bodies as requests
from repzoo_serving.wire.answers import Answer, choose

__all__ = ["Operations"]

T = TypeVar("T")

#: Bodies of more bytes than this are read, and answers of more numbers or pixels written, in a
#: thread. Below it, handing them over takes longer than doing it.
_LARGE_BODY = 65536
_LARGE_ANSWER = 4096


class Operations:
    """Answers the requests of all operations.

    Args:
        models: what is served.
        limits: what a request may take.
        pool: where bodies are parsed and written.
        metrics: told how long requests waited.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        pool: Executor,
        metrics: Metrics,
    ) -> None:
        self._models = models
        self._limits = limits
        self._pool = pool
        self._metrics = metrics
        self._hangups = Hangups()

    async def answer(self, operation: Operation, exchange: Exchange) -> Reply:
        """The reply to one request.

        When the deadline passes, or the caller hangs up, its rows leave the queue at once.

        Raises:
            Problem: whatever is wrong with it, or 504.
            Gone: if the caller hung up.
        """
        seconds = self._limits.deadline_seconds
        caller: Watched | None = None
        try:
            async with asyncio.timeout(seconds) as deadline:
                media_type = choose(exchange.header(b"accept"), tensors_too=operation.tensors_too)
                body = await exchange.read(self._limits.max_bytes)
                with self._hangups.watch(exchange.receive, partial(_pass, deadline)) as caller:
                    answer = await self._run(operation, exchange, body)
                    start = time.perf_counter()
                    body = await self._write(operation, answer, media_type)
                    exchange.timing.write = time.perf_counter() - start
                return Reply(200, media_type, body)
        except TimeoutError:
            if caller is not None and caller.gone:
                raise Gone from None
            if not deadline.expired():
                raise
            # The connection ends too: the rest of a body that is not read must not be taken for
            # another request.
            raise Problem(
                "deadline-exceeded",
                f"the request was not complete and answered after {seconds:g} seconds",
                headers=[(b"connection", b"close")],
            ) from None

    async def _run(self, operation: Operation, exchange: Exchange, body: bytes) -> Answer:
        start = time.perf_counter()
        parse = partial(
            operation.parse,
            body,
            exchange.headers.get(b"content-type", b""),
            max_items=self._limits.max_images,
        )
        request: requests.Request[Any] = (
            parse() if len(body) <= _LARGE_BODY else await self._in_pool(parse)
        )
        exchange.timing.decode = time.perf_counter() - start
        model = self._models.get(request.options.model)
        exchange.model = model.name
        exchange.revision = model.encoder.revision
        exchange.images = request.items
        with self._models.hold(model):
            try:
                answer: Answer = await operation.answer(model, request, exchange.timing)
            except QueueFull as full:
                raise Problem(
                    "overloaded", f"{full}; try again later", headers=[RETRY_AFTER]
                ) from None
            except RepzooError as error:
                raise Problem.of(error) from error
        key = (exchange.operation, model.name)
        self._metrics.queue_seconds[key].observe(exchange.timing.queue)
        facts = {**answer.facts, "request_id": exchange.request_id}
        return Answer(facts, answer.arrays, request.options.encoding_format)

    async def _write(self, operation: Operation, answer: Answer, media_type: str) -> bytes:
        write = partial(operation.write, answer, media_type)
        if sum(array.size for array in answer.arrays.values()) <= _LARGE_ANSWER:
            return write()
        return await self._in_pool(write)

    async def _in_pool(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


def _pass(deadline: asyncio.Timeout) -> None:
    """Let a deadline pass now, which is what a hang-up is."""
    if not deadline.expired():
        deadline.reschedule(0.0)
