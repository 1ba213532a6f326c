"""OpenTelemetry spans of requests, sent by OTLP over HTTP; ``repzoo[tracing]``.

    POST /embed          kind server; a child of the client's span if a traceparent was sent
    ├─ read              until the body was complete
    ├─ decode            parsing, decoding and resizing
    ├─ queue             until the first batch with rows of the request began
    ├─ inference         until the last of its batches ended; links to batches of other requests
    │  └─ batch          a run of the model, below the first of the requests that shared it
    └─ encode            encoding the response body

Tracing is off unless a collector is configured, by ``REPZOO_SERVE_OTLP`` or
``OTEL_EXPORTER_OTLP_ENDPOINT``. While it is off, nothing is imported, and a request only tests for
None. While it is on, the spans of a sampled request are made from its ordinary timings when it is
answered, and a separate thread exports them in batches. Spans that the collector does not accept
are dropped.

OpenTelemetry's own variables have their usual meaning: ``OTEL_TRACES_SAMPLER`` and ``_ARG`` (by
default, the client's traceparent decides, and requests without one are sampled; ``traceidratio``
ignores clients), ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_PROPAGATORS``,
``OTEL_BSP_*``, ``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_SDK_DISABLED``. Attributes follow the HTTP
conventions, or begin with ``repzoo.``. Health checks and metrics make no spans.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from repzoo.errors import MissingExtra

from repzoo_serving.http.exchange import Exchange
from repzoo_serving.http.timing import Run, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Tracing"]

_logger = logging.getLogger("repzoo_serving")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)


class Tracing:
    """Records the spans of one worker. Use it from one event loop; `start` creates it.

    Args:
        provider: Where spans go.
        routes: The existing paths.
    """

    def __init__(self, provider: TracerProvider, routes: frozenset[str]) -> None:
        # Imported only if tracing is on.
        from opentelemetry import propagate, trace

        self._provider = provider
        self._tracer = provider.get_tracer("repzoo_serving", version("repzoo"))
        self._trace = trace
        self._extract = propagate.extract
        self._fields = {name: name.encode() for name in propagate.get_global_textmap().fields}
        self._routes = routes

    @classmethod
    def start(cls, endpoint: str | None, routes: frozenset[str], worker: str) -> Tracing | None:
        """Start tracing if a setting or the environment asks for it; otherwise return None.

        Raises:
            MissingExtra: If the setting asks for it and the exporter is not installed.
        """
        asked = endpoint is not None or any(os.environ.get(name) for name in _ENDPOINTS)
        disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        if not asked or disabled or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk import resources
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            if endpoint is not None:
                raise MissingExtra("sending spans", "tracing", error) from error
            # The variable may be set for everything that runs on the machine.
            _logger.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but spans need repzoo[tracing]")
            return None
        service = {
            "service.name": "repzoo",
            "service.version": version("repzoo"),
            "service.instance.id": f"{socket.gethostname()}-{worker}",
        }
        configured = resources.OTELResourceDetector().detect()
        resource = resources.Resource.create(service).merge(configured)
        url = endpoint and f"{endpoint.rstrip('/')}/v1/traces"
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        return cls(provider, routes)

    def begin(self, exchange: Exchange) -> None:
        """Start the span of a request, and decide whether it is sampled."""
        method = exchange.method if exchange.method in _METHODS else "_OTHER"
        name = "HTTP" if method == "_OTHER" else method
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "url.path": exchange.path,
            "url.scheme": exchange.scope.get("scheme", "http"),
            "network.protocol.version": exchange.scope.get("http_version", "1.1"),
        }
        if method == "_OTHER":
            attributes["http.request.method_original"] = exchange.method
        if route := self._route(exchange.path):
            attributes["http.route"] = route
            name += f" {route}"
        if client := exchange.scope.get("client"):
            attributes["client.address"] = client[0]
        if server := exchange.scope.get("server"):
            attributes["server.address"], attributes["server.port"] = server
        if agent := exchange.header(b"user-agent"):
            attributes["user_agent.original"] = agent
        carrier = {
            name: exchange.header(field)
            for name, field in self._fields.items()
            if field in exchange.headers
        }
        zero = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            name,
            context=self._extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=_at(zero, exchange.started),
        )
        if span.is_recording():
            exchange.timing.runs = []
        context = span.get_span_context()
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        exchange.trace = Trace(span, zero, ids)

    def failed(self, exchange: Exchange, error: BaseException) -> None:
        """Record an error in the server."""
        if exchange.trace is not None:
            exchange.trace.span.record_exception(error)

    def end(self, exchange: Exchange, status: int | None) -> None:
        """End the span of a request; without a status, its client hung up."""
        trace = exchange.trace
        if trace is None or not trace.span.is_recording():
            return
        span = trace.span
        about = {
            "http.response.status_code": status,
            "repzoo.request_id": exchange.request_id,
            "repzoo.operation": exchange.operation or None,
            "repzoo.images": exchange.images or None,
            "repzoo.problem": exchange.problem,
            "repzoo.key": exchange.key,
            **_model(exchange),
        }
        if status is None or status >= 500:
            about["error.type"] = "hang-up" if status is None else exchange.problem or str(status)
            span.set_status(self._trace.StatusCode.ERROR)
        span.set_attributes({name: value for name, value in about.items() if value is not None})
        now = time.perf_counter()
        if exchange.operation:
            self._stages(exchange, trace, now)
        span.end(_at(trace.zero, now))

    def close(self, seconds: float) -> None:
        """Send the remaining spans for at most ``seconds``: the collector may be dead."""
        thread = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        thread.start()
        thread.join(seconds)

    def _stages(self, exchange: Exchange, trace: Trace, now: float) -> None:
        timing, runs = exchange.timing, exchange.timing.runs or []
        parent = self._trace.set_span_in_context(trace.span)

        def stage(name: str, start: float, end: float) -> None:
            span = self._tracer.start_span(name, parent, start_time=_at(trace.zero, start))
            span.end(_at(trace.zero, max(start, end)))

        read = exchange.started + timing.read
        decoded = read + timing.decode
        if timing.read:
            stage("read", exchange.started, read)
        if timing.decode:
            stage("decode", read, decoded)
        if timing.queue or runs:
            stage("queue", decoded, runs[0].start if runs else decoded + timing.queue)
        if runs:
            self._inference(exchange, trace, parent, runs)
        if timing.write:
            stage("encode", now - timing.write, now)

    def _inference(self, exchange: Exchange, trace: Trace, parent: Any, runs: list[Run]) -> None:
        links = [self._trace.Link(run.span) for run in runs if run.span is not None]
        span = self._tracer.start_span(
            "inference",
            parent,
            attributes={"repzoo.batches": len(runs), "repzoo.batch_size": runs[0].rows},
            links=links,
            start_time=_at(trace.zero, runs[0].start),
        )
        within = self._trace.set_span_in_context(span)
        about = {"repzoo.operation": exchange.operation, **_model(exchange)}
        for run in runs:
            if run.span is None:
                batch = self._tracer.start_span(
                    "batch",
                    within,
                    attributes={"repzoo.batch_size": run.rows, **about},
                    start_time=_at(trace.zero, run.start),
                )
                batch.end(_at(trace.zero, run.start + run.seconds))
                run.span = batch.get_span_context()
        span.end(_at(trace.zero, runs[-1].start + runs[-1].seconds))

    def _route(self, path: str) -> str | None:
        for prefix in ("/models/", "/v1/models/"):
            if path.startswith(prefix):
                return f"{prefix}{{name}}"
        return path if path in self._routes else None


def _model(exchange: Exchange) -> dict[str, str]:
    if not exchange.model:
        return {}
    return {"repzoo.model": exchange.model, "repzoo.revision": exchange.revision}


def _at(zero: int, seconds: float) -> int:
    """Convert a reading of `time.perf_counter` to nanoseconds since the epoch."""
    return zero + int(seconds * 1e9)
