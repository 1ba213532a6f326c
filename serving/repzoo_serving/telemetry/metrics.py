"""Metrics for Prometheus that cost a request next to nothing.

Recording a number only changes an item of a dictionary or a list; prometheus-client formats the
numbers when Prometheus asks for them. Its own counters and histograms are not used, because they
lock and look up labels for every number. Metrics are per worker and have the worker's number as
the label ``worker``: with several workers on one port, any of them may answer.

    ===================================  =========  ==============================================
    name                                 type       labels, in addition to ``worker``
    ===================================  =========  ==============================================
    repzoo_requests_total                counter    operation, model, status
    repzoo_rejections_total              counter    operation, model, reason (a problem's type)
    repzoo_hangups_total                 counter    operation: clients gone before the response
    repzoo_images_total                  counter    operation, model
    repzoo_key_requests_total            counter    key (its name), operation, status
    repzoo_key_images_total              counter    key, operation, model
    repzoo_log_lines_dropped_total       counter
    repzoo_request_seconds               histogram  operation, model
    repzoo_queue_seconds                 histogram  operation, model: waiting for batches
    repzoo_inference_seconds             histogram  operation, model: one batch
    repzoo_batch_images                  histogram  operation, model: images in one batch
    repzoo_queued_images                 gauge      operation, model
    repzoo_requests_in_flight            gauge
    repzoo_draining                      gauge      1 after SIGTERM
    repzoo_model_info                    gauge      model, revision, provider: 1
    repzoo_model_memory_bytes            gauge      model
    repzoo_models_failed                 gauge      models that could not be loaded
    repzoo_process_resident_bytes        gauge
    ===================================  =========  ==============================================

``model`` is empty if a request names no served model, ``operation`` if the path has none.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from repzoo_serving.http.exchange import Exchange

__all__ = ["METRICS_TYPE", "Gauge", "Histogram", "Metrics"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = tuple(float(2**power) for power in range(13))

#: Operation and model.
Key: TypeAlias = tuple[str, str]

#: A gauge's name, its help, and its values by their labels.
Gauge: TypeAlias = tuple[str, str, Iterable[tuple[Mapping[str, str], float]]]


class Histogram:
    """Counts of values by upper bounds, and their sum."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by upper bound, as Prometheus expects them."""
        bounds = (*(f"{bound:g}" for bound in self._bounds), "+Inf")
        total = 0
        return [(bound, total := total + n) for bound, n in zip(bounds, self._counts, strict=True)]


class _Histograms(dict[Key, Histogram]):
    """A histogram per operation and model, created on first use."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, key: Key) -> Histogram:
        self[key] = Histogram(self._bounds)
        return self[key]


class _Snapshot(NamedTuple):
    """Metrics at one moment, as prometheus-client collects them."""

    metrics: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


class Metrics:
    """The metrics of one worker."""

    def __init__(self, worker: str = "1") -> None:
        self._worker = worker
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.rejections: Counter[tuple[str, str, str]] = Counter()
        self.hangups: Counter[str] = Counter()
        self.images: Counter[Key] = Counter()
        self.key_requests: Counter[tuple[str, str, int]] = Counter()
        self.key_images: Counter[tuple[str, str, str]] = Counter()
        self.request_seconds = _Histograms(_SECONDS)
        self.queue_seconds = _Histograms(_SECONDS)
        self.inference_seconds = _Histograms(_SECONDS)
        self.batch_images = _Histograms(_IMAGES)

    def batch(self, key: Key, images: int, seconds: float) -> None:
        """Record a batch that has run."""
        self.batch_images[key].observe(images)
        self.inference_seconds[key].observe(seconds)

    def answered(self, exchange: Exchange, status: int) -> None:
        """Record a response."""
        key = (exchange.operation, exchange.model)
        self.requests[*key, status] += 1
        if exchange.problem is not None:
            self.rejections[*key, exchange.problem] += 1
        elif exchange.images:
            self.images[key] += exchange.images
            if exchange.key is not None:
                self.key_images[exchange.key, *key] += exchange.images
        if exchange.key is not None:
            self.key_requests[exchange.key, exchange.operation, status] += 1
        if exchange.operation:
            self.request_seconds[key].observe(time.perf_counter() - exchange.started)

    def exposition(self, gauges: Iterable[Gauge] = (), log_lines_dropped: int = 0) -> bytes:
        """Return all metrics, including ``gauges``, in Prometheus's text format."""
        return generate_latest(_Snapshot([*self._metrics(gauges, log_lines_dropped)]))

    def _metrics(self, gauges: Iterable[Gauge], log_lines_dropped: int) -> Iterator[Metric]:
        hangups = {(operation,): count for operation, count in self.hangups.items()}
        for name, text, labels, counter in (
            ("requests", "Requests answered.", "operation model status", self.requests),
            (
                "rejections",
                "Requests answered with a problem, by its type.",
                "operation model reason",
                self.rejections,
            ),
            ("hangups", "Clients that hung up before the response.", "operation", hangups),
            (
                "images",
                "Images, or latents, of requests answered with 200.",
                "operation model",
                self.images,
            ),
            (
                "key_requests",
                "Requests answered, by the name of their API key.",
                "key operation status",
                self.key_requests,
            ),
            (
                "key_images",
                "Images, or latents, of requests answered with 200, by the name of their API key.",
                "key operation model",
                self.key_images,
            ),
            (
                "log_lines_dropped",
                "Log lines dropped because they could not be written in time.",
                "",
                {(): log_lines_dropped},
            ),
        ):
            counts = CounterMetricFamily(
                f"repzoo_{name}_total", text, labels=[*labels.split(), "worker"]
            )
            for key, count in counter.items():
                counts.add_metric([*map(str, key), self._worker], count)
            yield counts
        for name, text, histograms in (
            ("request_seconds", "From a request's head to its response.", self.request_seconds),
            ("queue_seconds", "Time that a request waited for batches.", self.queue_seconds),
            ("inference_seconds", "One run of a batch.", self.inference_seconds),
            ("batch_images", "Images, or latents, in a batch.", self.batch_images),
        ):
            family = HistogramMetricFamily(
                f"repzoo_{name}", text, labels=["operation", "model", "worker"]
            )
            for key, histogram in histograms.items():
                family.add_metric([*key, self._worker], histogram.buckets(), histogram.sum)
            yield family
        for name, text, values in gauges:
            gauge = GaugeMetricFamily(name, text, labels=())
            for its_labels, value in values:
                gauge.add_sample(name, {**its_labels, "worker": self._worker}, value)
            yield gauge
