"""Metrics for Prometheus that cost a request next to nothing.

Recording a number only changes an item of a dictionary or a list; prometheus-client formats the
numbers when Prometheus asks for them. Its own counters and histograms are not used, because they
lock and look up labels for every number. Metrics are per worker and have the worker's number as
the label ``worker``: with several workers on one port, any of them may answer.

`FAMILIES` lists them all. ``model`` is empty if a request names no served model, ``operation`` if
the path has none.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from repzoo_serving.http.exchange import Exchange

__all__ = ["FAMILIES", "METRICS_TYPE", "Family", "Histogram", "Metrics", "Samples"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = tuple(float(2**power) for power in range(13))

#: Operation and model.
Key: TypeAlias = tuple[str, str]

#: Numbers by the values of their labels, which are tuples.
Samples: TypeAlias = Mapping[Any, float]

_Type: TypeAlias = Literal["counter", "histogram", "gauge"]


class Family(NamedTuple):
    """A metric: its labels in addition to ``worker``, and its meaning."""

    name: str
    type: _Type
    labels: tuple[str, ...]
    meaning: str


_FAMILIES: tuple[tuple[str, _Type, str, str], ...] = (
    ("requests_total", "counter", "operation model status", "Requests answered."),
    (
        "rejections_total",
        "counter",
        "operation model reason",
        "Requests answered with a problem, by the last part of its type.",
    ),
    ("hangups_total", "counter", "operation", "Clients that hung up before the response."),
    (
        "images_total",
        "counter",
        "operation model",
        "Images, or latents, of requests answered with 200.",
    ),
    (
        "key_requests_total",
        "counter",
        "key operation status",
        "Requests answered, by the name of their API key.",
    ),
    (
        "key_images_total",
        "counter",
        "key operation model",
        "Images, or latents, of requests answered with 200, by the name of their API key.",
    ),
    (
        "log_lines_dropped_total",
        "counter",
        "",
        "Log lines dropped because they could not be written in time.",
    ),
    (
        "worker_deaths_total",
        "counter",
        "",
        "Workers of this server that died, such as for lack of memory. All workers report the "
        "same number. bentoml serve does not count them.",
    ),
    (
        "request_seconds",
        "histogram",
        "operation model",
        "Time from a request's head to its response.",
    ),
    (
        "queue_seconds",
        "histogram",
        "operation model",
        "Time that a request waited for batches.",
    ),
    ("inference_seconds", "histogram", "operation model", "Time of one run of a batch."),
    ("batch_images", "histogram", "operation model", "Images, or latents, in a batch."),
    (
        "queued_images",
        "gauge",
        "operation model",
        "Images, or latents, waiting for a batch.",
    ),
    ("requests_in_flight", "gauge", "", "Requests not answered yet."),
    ("draining", "gauge", "", "1 after SIGTERM, otherwise 0."),
    ("model_info", "gauge", "model revision provider", "1 for each served model."),
    ("model_memory_bytes", "gauge", "model", "Approximate memory of a model."),
    ("models_failed", "gauge", "", "Models that could not be loaded."),
    ("process_resident_bytes", "gauge", "", "Memory of the process."),
)

#: All metrics of a server.
FAMILIES = tuple(
    Family(f"repzoo_{name}", kind, tuple(labels.split()), meaning)
    for name, kind, labels, meaning in _FAMILIES
)


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

    metrics: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


class Metrics:
    """The metrics of one worker."""

    def __init__(self, worker: str = "1") -> None:
        self._worker = worker
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.rejections: Counter[tuple[str, str, str]] = Counter()
        self.hangups: Counter[tuple[str]] = Counter()
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

    def exposition(self, more: Mapping[str, Samples]) -> bytes:
        """Return all metrics in Prometheus's text format.

        Args:
            more: The samples of the counters and gauges that are not attributes, by name.
        """
        own: dict[str, Samples] = {
            "requests_total": self.requests,
            "rejections_total": self.rejections,
            "hangups_total": self.hangups,
            "images_total": self.images,
            "key_requests_total": self.key_requests,
            "key_images_total": self.key_images,
        }
        histograms = {
            "request_seconds": self.request_seconds,
            "queue_seconds": self.queue_seconds,
            "inference_seconds": self.inference_seconds,
            "batch_images": self.batch_images,
        }
        numbers, metrics = {**own, **more}, list[Metric]()
        for name, kind, labels, meaning in FAMILIES:
            short, all_labels = name.removeprefix("repzoo_"), [*labels, "worker"]
            if kind == "histogram":
                histogram = HistogramMetricFamily(name, meaning, labels=all_labels)
                for key, values in histograms[short].items():
                    histogram.add_metric([*key, self._worker], values.buckets(), values.sum)
                metrics.append(histogram)
                continue
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family = make(name, meaning, labels=all_labels)
            for of_sample, number in numbers[short].items():
                family.add_metric([*map(str, of_sample), self._worker], number)
            metrics.append(family)
        return generate_latest(_Snapshot(metrics))
