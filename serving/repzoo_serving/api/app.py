"""The ASGI application: routes, lifecycle, and a problem document for every error.

It is a bare callable that receives every request directly. BentoML's own application is bypassed:
it costs several times as much, and its errors are not problem documents.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from repzoo.errors import InvalidImage
from repzoo.runtime.encoder import Encoder

from repzoo_serving.api.access import HEALTH_PATHS, METRICS_PATH, Access
from repzoo_serving.api.operations import PATHS, Operations
from repzoo_serving.http.drain import Drain
from repzoo_serving.http.exchange import (
    Budget,
    Exchange,
    Gone,
    Message,
    Receive,
    RequestIds,
    Response,
    Send,
)
from repzoo_serving.http.problems import RETRY_AFTER, Problem
from repzoo_serving.models.decoding import Decoder
from repzoo_serving.models.image_index import ImageIndex
from repzoo_serving.models.registry import Models
from repzoo_serving.models.served import ServedModel
from repzoo_serving.pages.pages import Pages
from repzoo_serving.settings import Limits, Settings
from repzoo_serving.supervision import Deaths
from repzoo_serving.telemetry.logs import LogWriter, RequestLog
from repzoo_serving.telemetry.metrics import METRICS_TYPE, Metrics, Samples
from repzoo_serving.telemetry.tracing import Tracing
from repzoo_serving.wire import openai_api
from repzoo_serving.wire.response_bodies import JSON_TYPE, choose_media_type

__all__ = ["App"]

_logger = logging.getLogger("repzoo_serving")

_INTERNAL = Problem("internal", "see the server's log for this request_id")

#: Paths that still respond while the server drains, and are not traced.
_MONITORING = HEALTH_PATHS | {METRICS_PATH}

_MODELS = re.compile(r"(/v1)?/models(?:/(.*))?")
_PICTURES = "/index/images/"

#: Pictures of an index that may be in the making.
_MAX_PICTURES = 256
_PICTURE_HEADERS = (
    (b"cache-control", b"private, max-age=3600"),
    (b"x-content-type-options", b"nosniff"),
)

#: Bodies in transfer may take this many times the size of the largest allowed request.
_BODIES_IN_TRANSFER = 16


class App:
    """Version 1 of the wire over a set of loaded models.

    Args:
        settings: All settings, or only the limits.
        worker: Number of this worker, for its metrics.

    Attributes:
        models: The served models.
        drain: Counts requests, and refuses new ones after SIGTERM.
        metrics: Metrics for Prometheus.
        tracing: Records spans of requests, if a collector is configured.
        log_writer: Writes log lines.

    Raises:
        InvalidInput: If the file of keys or the index cannot be used.
    """

    def __init__(self, settings: Limits, *, worker: str = "1") -> None:
        self.settings = Settings.model_validate(settings.model_dump())
        self.drain = Drain()
        self.metrics = Metrics(worker)
        self._limits = self.settings.limits
        as_json = self.settings.log == "json"
        self.log_writer = LogWriter(as_json=as_json)
        self._log = RequestLog(self.log_writer) if as_json else None
        self.models = Models()
        self.tracing: Tracing | None = None
        file = self.settings.supervisor_deaths
        self._deaths = None if file is None else Deaths(Path(file))
        self._access = Access(self.settings)
        self._index: ImageIndex | None = None
        if self.settings.index is not None:
            images = self.settings.index_images
            folder = Path(images) if images is not None else None
            self._index = ImageIndex(Path(self.settings.index), folder)
        self._pages = Pages.make(self._limits, index=self._index is not None)
        self._ids = RequestIds()
        self._pictures = 0
        self._budget = Budget(_BODIES_IN_TRANSFER * self._limits.max_bytes)
        threads = self.settings.threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._large_pool = ThreadPoolExecutor(threads, thread_name_prefix="decode-large")
        self._decode = Decoder(
            self._pool,
            self._large_pool,
            width=threads,
            max_pixels=self._limits.max_pixels,
            max_queued=self._limits.max_queued,
        )
        self._operations = Operations(self.models, self._limits, self._pool, self.metrics)

    def served(self, encoder: Encoder, alias: str | None = None) -> ServedModel:
        """Return a model that this application can serve; add it to `models`."""
        return ServedModel(
            encoder,
            self._limits,
            self._decode,
            self.metrics,
            self.settings.hang_seconds,
            alias=alias,
            index=self._index_of(encoder),
        )

    def _index_of(self, encoder: Encoder) -> ImageIndex | None:
        """Return the index if this model has made its vectors."""
        index = self._index
        return index if index is not None and index.revision == encoder.revision else None

    def trace(self, worker: str = "1") -> None:
        """Record spans of requests, if the settings or the environment ask for it.

        Raises:
            MissingExtra: If the settings ask for it and the exporter is not installed.
        """
        routes = frozenset({*PATHS, *self._pages.responses, "/models", "/v1/models"})
        self.tracing = Tracing.start(self.settings.otlp, routes, worker)

    def close(self, seconds: float = 5.0) -> bool:
        """Stop the threads after their current work; return whether they ended in time.

        Args:
            seconds: How long to wait.
        """
        for pool in (self._pool, self._large_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        closed = self.models.close(seconds)
        if self.tracing is not None:
            self.tracing.close(seconds)
        return closed

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = self._ids.make(headers.get(b"x-request-id"))
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        exchange = Exchange(scope, receive, headers, path, request_id, self._budget)
        exchange.own = self._access.is_supervisor(exchange)
        monitoring = path in _MONITORING
        if self.tracing is not None and not (monitoring or exchange.own):
            self.tracing.begin(exchange)
        if self.drain.begun and not monitoring:
            await self._finish(exchange, send, _refusal(exchange, _draining()))
            return
        self.drain.enter()
        try:
            response = await self._guarded(exchange)
            if response is not None:
                await self._finish(exchange, send, response)
        finally:
            self._budget.held -= exchange.held
            self.drain.leave()

    async def _guarded(self, exchange: Exchange) -> Response | None:
        """Return the response, whatever happens; None if the client is gone."""
        try:
            return await self._respond(exchange)
        except Gone:
            self.metrics.hangups[exchange.operation,] += 1
            self._log_request(exchange, 499)  # nginx's status for it
            if self.tracing is not None:
                self.tracing.end(exchange, None)
            return None
        except Problem as problem:
            return _refusal(exchange, problem)
        except Exception as error:
            about = {"request_id": exchange.request_id, **_trace_ids(exchange)}
            _logger.exception("request %s failed", exchange.request_id, extra=about)
            if self.tracing is not None:
                self.tracing.failed(exchange, error)
            return _refusal(exchange, _INTERNAL)

    async def _finish(self, exchange: Exchange, send: Send, response: Response) -> None:
        if not exchange.own:
            self.metrics.answered(exchange, response.status)
        self._log_request(exchange, response.status)
        if self.tracing is not None:
            self.tracing.end(exchange, response.status)
        await exchange.send(send, response, self._access.cors_headers(exchange))

    def _log_request(self, exchange: Exchange, status: int) -> None:
        if self._log is None or exchange.own:
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
            **_trace_ids(exchange),
        )

    async def _respond(self, exchange: Exchange) -> Response:
        _require_host(exchange)
        preflight = self._access.preflight(exchange)
        if preflight is not None:
            return preflight
        self._access.admit(exchange)
        path = exchange.path
        operation = PATHS.get(path)
        if operation is not None:
            exchange.operation = path[1:]
            _require_method(exchange.method, ("POST",))
            return await self._operations.handle(operation, exchange)
        models = _MODELS.fullmatch(path)
        page = self._pages.responses.get(path)
        if path.startswith(_PICTURES):
            _require_method(exchange.method, ("GET", "HEAD"))
            return await self._picture(path.removeprefix(_PICTURES))
        if models is None and page is None and path not in _MONITORING:
            raise Problem("not-found", f"{path} does not exist; there are {self._pages.index}")
        _require_method(exchange.method, ("GET", "HEAD"))
        if page is not None:
            return page
        if models is None:
            return await self._monitor(path)
        v1, name = models.groups()
        if v1:
            document = (
                openai_api.list_models(each for m in self.models for each in m.openai_names)
                if name is None
                else openai_api.model_object(self._openai_name(name))
            )
        else:
            choose_media_type(exchange.header(b"accept"), tensors_too=False)
            document = self.models.describe(name)
        return Response(200, JSON_TYPE, json.dumps(document).encode())

    def _openai_name(self, name: str) -> str:
        """Return a name that ``/v1/models`` lists.

        Raises:
            Problem: 404 if no model has this name.
        """
        model = self.models.get(name.removesuffix(openai_api.ROBUST))
        if name not in model.openai_names:
            raise Problem("unknown-model", f"{model.name} has no content posterior")
        return name

    async def _picture(self, name: str) -> Response:
        """Return a small picture of an image of the index.

        Raises:
            Problem: 404 if there is none, 429 if too many are being made.
        """
        missing = Problem("not-found", f"the index has no picture of {name!r}")
        if self._index is None:
            raise missing
        if self._pictures >= _MAX_PICTURES:
            raise Problem("overloaded", "too many pictures; try again later", headers=[RETRY_AFTER])
        self._pictures += 1
        make = partial(self._index.picture, name, self._limits.max_pixels)
        try:
            media_type, body = await asyncio.get_running_loop().run_in_executor(
                self._large_pool, make
            )
        except (KeyError, OSError, InvalidImage):
            raise missing from None
        finally:
            self._pictures -= 1
        return Response(200, media_type, body, _PICTURE_HEADERS)

    async def _monitor(self, path: str) -> Response:
        if path == METRICS_PATH:
            return Response(200, METRICS_TYPE, self.metrics.exposition(self._samples()))
        if path == "/readyz":
            await self._require_ready()
            return Response(200, JSON_TYPE, b'{"status": "ready"}')
        self._require_alive()
        return Response(200, JSON_TYPE, b'{"status": "alive"}')

    def _require_alive(self) -> None:
        # By then every request that waited has got its 504. A thread cannot be ended, but a process
        # can.
        hopeless = self.settings.hang_seconds + self.settings.deadline_seconds
        for model in self.models:
            if (seconds := model.runner.running) > hopeless:
                raise Problem(
                    "unavailable",
                    f"{model.name} has been hanging for {seconds:.0f} seconds; restart the server",
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
                    "unavailable", f"{model.name} does not respond", headers=[RETRY_AFTER]
                )

    def _samples(self) -> Mapping[str, Samples]:
        """Return the metrics that `Metrics` does not count."""
        models = list(self.models)
        deaths = self._deaths.read() if self._deaths is not None else None
        return {
            "log_lines_dropped_total": {(): self.log_writer.dropped},
            "worker_deaths_total": {} if deaths is None else {(): deaths},
            "queued_images": {
                (operation, model.name): rows
                for model in models
                for operation, rows in model.queued().items()
            },
            "requests_in_flight": {(): self.drain.active},
            "draining": {(): self.drain.begun},
            "model_info": {
                (model.name, model.encoder.revision, model.encoder.provider): 1 for model in models
            },
            "model_memory_bytes": {(model.name,): model.memory_bytes for model in models},
            "models_failed": {(): len(self.models.failed)},
            "process_resident_bytes": {(): psutil.Process().memory_info().rss},
        }


def _draining() -> Problem:
    return Problem(
        "unavailable",
        "the server is shutting down; retry, another instance may answer",
        headers=[RETRY_AFTER, (b"connection", b"close")],
    )


def _refusal(exchange: Exchange, problem: Problem) -> Response:
    exchange.problem = problem.kind
    more = {"error": openai_api.error_member(problem)} if exchange.path.startswith("/v1/") else {}
    return Response.of(problem, exchange.request_id, **more)


def _trace_ids(exchange: Exchange) -> Mapping[str, str]:
    return exchange.trace.ids if exchange.trace is not None else {}


def _require_host(exchange: Exchange) -> None:
    """Refuse HTTP/1.1 requests without exactly one Host header (RFC 9112, section 3.2)."""
    if exchange.scope.get("http_version") != "1.1":
        return
    fields = exchange.scope["headers"]
    if b"host" not in exchange.headers or (
        len(fields) != len(exchange.headers) and sum(name == b"host" for name, _ in fields) != 1
    ):
        raise Problem("malformed-request", "the request must have exactly one Host header")


def _require_method(method: str, allowed: tuple[str, ...]) -> None:
    if method not in allowed:
        names = ", ".join(allowed)
        raise Problem(
            "method-not-allowed",
            f"the path supports {names}, not {method}",
            headers=[(b"allow", names.encode())],
        )
