"""The duration of a request's stages, for ``Server-Timing``, the log and the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Run", "Timing", "Trace"]


@dataclass(slots=True, eq=False)
class Run:
    """One run of a batch, shared by all requests with rows in it."""

    #: A reading of `time.perf_counter`.
    start: float
    seconds: float
    rows: int
    #: The context of its span, when one has been made.
    span: Any = None


@dataclass(slots=True)
class Trace:
    """The OpenTelemetry span of one request, see `repzoo_serving.telemetry.tracing`."""

    span: Any
    #: Nanoseconds since the epoch when `time.perf_counter` was 0.
    zero: int
    #: Trace and span IDs, for log lines.
    ids: Mapping[str, str]


@dataclass(slots=True)
class Timing:
    """Seconds per stage."""

    #: Until the body was complete.
    read: float = 0.0
    #: Parsing, decoding and resizing, including the wait for a thread.
    decode: float = 0.0
    #: Waiting for batches.
    queue: float = 0.0
    #: In batches with rows of the request.
    run: float = 0.0
    #: Encoding the response body.
    write: float = 0.0
    #: Batches with rows of the request; None unless the request is traced.
    runs: list[Run] | None = None

    def header(self, total: float) -> bytes:
        """Return the value of ``Server-Timing``, in milliseconds."""
        return (
            f"read;dur={1e3 * self.read:.2f}, decode;dur={1e3 * self.decode:.2f}, "
            f"queue;dur={1e3 * self.queue:.2f}, run;dur={1e3 * self.run:.2f}, "
            f"write;dur={1e3 * self.write:.2f}, total;dur={1e3 * total:.2f}"
        ).encode()
