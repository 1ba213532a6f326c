"""What Prometheus is told: numbers that cost a request next to nothing, and their exposition.

Adding to a number is adding to a dictionary's or a list's item; names, labels and texts are put
together when somebody asks. The numbers are of this worker alone and carry its number as the label
``worker``: with several of them on one port, any of them answers.

    ===================================  =========  ==============================================
    name                                 type       labels, besides ``worker``
    ===================================  =========  ==============================================
    repzoo_requests_total                counter    operation, model, status
    repzoo_rejections_total              counter    operation, model, reason (a problem's type)
    repzoo_hangups_total                 counter    operation: callers who went before the answer
    repzoo_images_total                  counter    operation, model
    repzoo_request_seconds               histogram  operation, model
    repzoo_queue_seconds                 histogram  operation, model: waiting for batches
    repzoo_inference_seconds             histogram  operation, model: one batch
    repzoo_batch_images                  histogram  operation, model: images in one batch
    repzoo_queued_images                 gauge      operation, model
    repzoo_requests_in_flight            gauge
    repzoo_draining                      gauge      1 from SIGTERM on
    repzoo_model_info                    gauge      model, revision, provider: 1
    repzoo_model_memory_bytes            gauge      model
    repzoo_models_failed                 gauge      wanted, and not loaded
    repzoo_process_resident_bytes        gauge
    ===================================  =========  ==============================================

``model`` is empty where a request names none that is served, ``operation`` where there is none.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from repzoo_serving.http.exchange import Exchange

__all__ = ["METRICS_TYPE", "Gauge", "Histogram", "Metrics"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = tuple(float(2**power) for power in range(13))

#: operation and model.
Key: TypeAlias = tuple[str, str]

#: A gauge's name, its help, and its values by their labels.
Gauge: TypeAlias = tuple[str, str, Iterable[tuple[Mapping[str, str], float]]]


class Histogram:
    """Counts of values by upper bounds, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """The exposition; ``labels`` are written already, and not empty."""
        total = 0
        for bound, count in zip((*map(_number, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{name}_sum{{{labels}}} {self._sum!r}"
        yield f"{name}_count{{{labels}}} {total}"


class _Histograms(dict[Key, Histogram]):
    """A histogram for each operation of a model, made when it is first asked for."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, key: Key) -> Histogram:
        self[key] = Histogram(self._bounds)
        return self[key]


class Metrics:
    """The numbers of one worker."""

    def __init__(self, worker: str = "1") -> None:
        self._worker = worker
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.rejections: Counter[tuple[str, str, str]] = Counter()
        self.hangups: Counter[str] = Counter()
        self.images: Counter[Key] = Counter()
        self.request_seconds = _Histograms(_SECONDS)
        self.queue_seconds = _Histograms(_SECONDS)
        self.inference_seconds = _Histograms(_SECONDS)
        self.batch_images = _Histograms(_IMAGES)

    def batch(self, key: Key, images: int, seconds: float) -> None:
        """A batch has run."""
        self.batch_images[key].observe(images)
        self.inference_seconds[key].observe(seconds)

    def answered(self, exchange: Exchange, status: int) -> None:
        """A request is answered."""
        key = (exchange.operation, exchange.model)
        self.requests[*key, status] += 1
        if exchange.problem is not None:
            self.rejections[*key, exchange.problem] += 1
        elif exchange.images:
            self.images[key] += exchange.images
        if exchange.operation:
            self.request_seconds[key].observe(time.perf_counter() - exchange.started)

    def exposition(self, gauges: Iterable[Gauge] = ()) -> bytes:
        """All of them, and ``gauges``, in Prometheus's text format."""
        return "".join(line + "\n" for line in self._lines(gauges)).encode()

    def _lines(self, gauges: Iterable[Gauge]) -> Iterator[str]:
        label = self._label
        name = "repzoo_requests_total"
        yield from _head(name, "counter", "Requests answered.")
        for (operation, model, status), count in self.requests.items():
            labels = label(operation=operation, model=model, status=str(status))
            yield f"{name}{{{labels}}} {count}"
        name = "repzoo_rejections_total"
        yield from _head(name, "counter", "Requests answered with a problem, by its type.")
        for (operation, model, reason), count in self.rejections.items():
            labels = label(operation=operation, model=model, reason=reason)
            yield f"{name}{{{labels}}} {count}"
        name = "repzoo_hangups_total"
        yield from _head(name, "counter", "Callers who hung up before their answer.")
        for operation, count in self.hangups.items():
            yield f"{name}{{{label(operation=operation)}}} {count}"
        name = "repzoo_images_total"
        yield from _head(name, "counter", "Images, or latents, of requests answered with 200.")
        for (operation, model), count in self.images.items():
            yield f"{name}{{{label(operation=operation, model=model)}}} {count}"
        for name, text, histograms in (
            (
                "repzoo_request_seconds",
                "From a request's head to its answer.",
                self.request_seconds,
            ),
            ("repzoo_queue_seconds", "Waiting of a request for batches.", self.queue_seconds),
            ("repzoo_inference_seconds", "One run of a batch.", self.inference_seconds),
            ("repzoo_batch_images", "Images, or latents, in a batch.", self.batch_images),
        ):
            yield from _head(name, "histogram", text)
            for (operation, model), histogram in histograms.items():
                yield from histogram.lines(name, label(operation=operation, model=model))
        for name, text, values in gauges:
            yield from _head(name, "gauge", text)
            for labels_of, number in values:
                yield f"{name}{{{label(**labels_of)}}} {_number(number)}"

    def _label(self, **labels: str) -> str:
        return ",".join(
            f'{name}="{_escaped(value)}"'
            for name, value in (labels | {"worker": self._worker}).items()
        )


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
