"""The ASGI application: paths, lifecycle, and a problem document for every error.

It is a bare callable, and everything that a request meets: BentoML's own application, which costs
several times as much as this one and answers with errors of its own, stays beside it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import psutil  # type: ignore[import-untyped]
from repzoo.runtime.encoder import Encoder

from repzoo_serving.api.access import Access
from repzoo_serving.api.operations import Operations
from repzoo_serving.http.drain import Drain
from repzoo_serving.http.exchange import (
    Exchange,
    Gone,
    Message,
    Receive,
    Reply,
    RequestIds,
    Send,
    plain_get,
)
from repzoo_serving.http.problems import RETRY_AFTER, Problem
from repzoo_serving.models.decoding import Decoder
from repzoo_serving.models.registry import Models
from repzoo_serving.models.served import PATHS, ServedModel
from repzoo_serving.pages.pages import Pages
from repzoo_serving.settings import Limits, Settings
from repzoo_serving.telemetry.logs import RequestLog
from repzoo_serving.telemetry.metrics import METRICS_TYPE, Gauge, Metrics
from repzoo_serving.telemetry.tracing import Tracing
from repzoo_serving.wire import openai_api as openai
from repzoo_serving.wire.answers import JSON_TYPE, choose

__all__ = ["App"]

_logger = logging.getLogger("repzoo_serving")

_INTERNAL = Problem("internal", "the log of the server says more, under the request_id")

#: Paths that go on answering while the server drains.
_HEALTH = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})


class App:
    """Version 1 of the wire over a set of loaded models.

    Args:
        settings: or the limits alone.
        worker: the number of this worker, for its metrics.

    Attributes:
        models: what is served.
        drain: counts requests, and refuses them from SIGTERM on.
        metrics: what Prometheus is told.
        tracing: makes spans of requests, where somebody collects them.

    Raises:
        InvalidInput: if the file of keys cannot be used.
    """

    def __init__(self, settings: Limits, *, worker: str = "1") -> None:
        self.settings = Settings.model_validate(settings.model_dump())
        self.drain = Drain()
        self.metrics = Metrics(worker)
        self._limits = self.settings.limits
        self._log = RequestLog() if self.settings.log == "json" else None
        self.models = Models()
        self.tracing: Tracing | None = None
        self._access = Access(self.settings)
        self._pages = Pages.make(self._limits)
        self._ids = RequestIds()
        threads = self.settings.threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._decode = Decoder(
            self._pool,
            width=threads,
            max_pixels=self._limits.max_pixels,
            max_queued=self._limits.max_queued,
        )
        self._operations = Operations(self.models, self._limits, self._pool, self.metrics)

    def served(self, encoder: Encoder) -> ServedModel:
        """A model that this application can serve: see `models`."""
        return ServedModel(
            encoder, self._limits, self._decode, self.metrics, self.settings.hang_seconds
        )

    def trace(self, worker: str = "1") -> None:
        """Make spans of requests from now on, if the settings or the environment want them.

        Raises:
            MissingExtra: if the settings do, and what sends them is not installed.
        """
        routes = frozenset({*PATHS, *self._pages.replies, "/models", "/v1/models"})
        self.tracing = Tracing.start(self.settings.otlp, routes, worker)

    def close(self, seconds: float = 5.0) -> bool:
        """Stop the threads, once what they do is done; whether it was within ``seconds``."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        closed = self.models.close(seconds)
        if self.tracing is not None:
            self.tracing.close(seconds)
        return closed

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope."""
        if scope["type"] == "websocket":
            scope, send = plain_get(scope, send)
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = self._ids.make(headers.get(b"x-request-id"))
        exchange = Exchange(scope, receive, headers, request_id)
        if self.tracing is not None and exchange.path not in _HEALTH:
            self.tracing.begin(exchange)
        if self.drain.begun and exchange.path not in _HEALTH:
            await self._finish(exchange, send, _refusal(exchange, _draining()))
            return
        self.drain.enter()
        try:
            reply = await self._guarded(exchange)
            if reply is not None:
                await self._finish(exchange, send, reply)
        finally:
            self.drain.leave()

    async def _guarded(self, exchange: Exchange) -> Reply | None:
        """The reply, whatever happens; None if there is nobody left to get it."""
        try:
            return await self._reply(exchange)
        except Gone:
            self.metrics.hangups[exchange.operation] += 1
            self._log_request(exchange, 499)  # as nginx has it
            if self.tracing is not None:
                self.tracing.end(exchange, None)
            return None
        except Problem as problem:
            return _refusal(exchange, problem)
        except Exception as error:
            about = {"request_id": exchange.request_id, **_ids(exchange)}
            _logger.exception("request %s failed", exchange.request_id, extra=about)
            if self.tracing is not None:
                self.tracing.failed(exchange, error)
            return _refusal(exchange, _INTERNAL)

    async def _finish(self, exchange: Exchange, send: Send, reply: Reply) -> None:
        self.metrics.answered(exchange, reply.status)
        if self._log is not None:
            self._log_request(exchange, reply.status)
        if self.tracing is not None:
            self.tracing.end(exchange, reply.status)
        await exchange.send(send, reply, self._access.cors_headers(exchange))

    def _log_request(self, exchange: Exchange, status: int) -> None:
        if self._log is None:
            return
        client = exchange.scope.get("client")
        timing = exchange.timing
        self._log.write(
            request_id=exchange.request_id,
            client=client[0] if client else None,
            method=exchange.method,
            path=exchange.path,
            key=exchange.key,
            status=status,
            problem=exchange.problem,
            model=exchange.model or None,
            images=exchange.images or None,
            seconds=round(time.perf_counter() - exchange.started, 6),
            queue_seconds=round(timing.queue, 6) if exchange.images else None,
            run_seconds=round(timing.run, 6) if exchange.images else None,
            **_ids(exchange),
        )

    async def _reply(self, exchange: Exchange) -> Reply:
        preflight = self._access.preflight(exchange)
        if preflight is not None:
            return preflight
        self._access.admit(exchange)
        path = exchange.path
        operation = PATHS.get(path)
        if operation is not None:
            exchange.operation = path[1:]
            _require_method(exchange.method, ("POST",))
            return await self._operations.answer(operation, exchange)
        if path == "/models" or path.startswith("/models/"):
            _require_method(exchange.method, ("GET", "HEAD"))
            choose(exchange.header(b"accept"), tensors_too=False)
            return Reply(200, JSON_TYPE, self.models.describe(_name(path)))
        if path == "/v1/models":
            _require_method(exchange.method, ("GET", "HEAD"))
            return Reply(200, JSON_TYPE, openai.listing(self.models.names))
        page = self._pages.replies.get(path)
        if page is not None:
            _require_method(exchange.method, ("GET", "HEAD"))
            return page
        if path in _HEALTH:
            _require_method(exchange.method, ("GET", "HEAD"))
            return await self._health(path)
        there = ", ".join(f"POST {name}" for name in PATHS)
        raise Problem("not-found", f"{path} is not known; there are {there}, GET /models")

    async def _health(self, path: str) -> Reply:
        if path == "/metrics":
            return Reply(200, METRICS_TYPE, self.metrics.exposition(self._gauges()))
        if path == "/readyz":
            await self._require_ready()
            return Reply(200, JSON_TYPE, b'{"status": "ready"}')
        self._require_alive()
        return Reply(200, JSON_TYPE, b'{"status": "alive"}')

    def _require_alive(self) -> None:
        # By then all who waited for it have had their 504; a thread cannot be ended, a process can.
        hopeless = self.settings.hang_seconds + self.settings.deadline_seconds
        for model in self.models:
            if (seconds := model.runner.running) > hopeless:
                raise Problem(
                    "unavailable",
                    f"{model.name} has been hanging for {seconds:.0f} seconds; a new process helps",
                    headers=[RETRY_AFTER],
                )

    async def _require_ready(self) -> None:
        if self.drain.begun:
            raise _draining()
        if not self.models:
            raise Problem("unavailable", "no model is loaded yet", headers=[RETRY_AFTER])
        for model in self.models:
            with self.models.hold(model):
                runs = await model.runner.runs()
            if not runs:
                raise Problem(
                    "unavailable", f"{model.name} does not run any more", headers=[RETRY_AFTER]
                )

    def _gauges(self) -> Iterable[Gauge]:
        models = list(self.models)
        resident = psutil.Process().memory_info().rss
        yield "repzoo_process_resident_bytes", "Memory of the process.", [({}, resident)]
        in_flight = self.drain.active
        yield "repzoo_requests_in_flight", "Requests not answered yet.", [({}, in_flight)]
        yield "repzoo_draining", "1 from SIGTERM on.", [({}, float(self.drain.begun))]
        yield (
            "repzoo_queued_images",
            "Images, or latents, that wait for a batch.",
            [
                ({"operation": operation, "model": model.name}, float(rows))
                for model in models
                for operation, rows in model.queued().items()
            ],
        )
        yield (
            "repzoo_model_info",
            "1 for each model that is served.",
            [({**model.facts, "provider": model.encoder.provider}, 1.0) for model in models],
        )
        memory = [({"model": model.name}, float(model.memory_bytes)) for model in models]
        yield "repzoo_model_memory_bytes", "What a model takes, about.", memory
        failed = float(len(self.models.failed))
        yield "repzoo_models_failed", "Models that are wanted and not loaded.", [({}, failed)]


def _draining() -> Problem:
    return Problem(
        "unavailable",
        "the server is going down; try again, another one may answer",
        headers=[RETRY_AFTER, (b"connection", b"close")],
    )


def _refusal(exchange: Exchange, problem: Problem) -> Reply:
    exchange.problem = problem.kind
    more = {"error": openai.error_member(problem)} if exchange.path.startswith("/v1/") else {}
    return Reply.of(problem, exchange.request_id, **more)


def _ids(exchange: Exchange) -> Mapping[str, str]:
    """Those of its trace."""
    return exchange.trace.ids if exchange.trace is not None else {}


def _name(path: str) -> str | None:
    """The name in ``/models/NAME``."""
    _, slash, name = path.removeprefix("/models").partition("/")
    return name if slash else None


def _require_method(method: str, allowed: tuple[str, ...]) -> None:
    if method not in allowed:
        names = ", ".join(allowed)
        raise Problem(
            "method-not-allowed",
            f"{method} is not allowed here; {names} is",
            headers=[(b"allow", names.encode())],
        )
