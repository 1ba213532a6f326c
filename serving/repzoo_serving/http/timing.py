"""How long the stages of a request took, for ``Server-Timing``, the log and its trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Run", "Timing", "Trace"]


@dataclass(slots=True, eq=False)
class Run:
    """One run of a batch, as all the requests know it that had rows in it."""

    #: by `time.perf_counter`.
    start: float
    seconds: float
    rows: int
    #: how spans refer to it, once there is one.
    span: Any = None


@dataclass(slots=True)
class Trace:
    """The OpenTelemetry span of one request, see `repzoo_serving.telemetry.tracing`."""

    span: Any
    #: Nanoseconds since the epoch when `time.perf_counter` was 0.
    zero: int
    #: Trace and span IDs, as log lines carry them.
    ids: Mapping[str, str]


@dataclass(slots=True)
class Timing:
    """Seconds, by stage. What is filled in by whom stands beside it."""

    #: until the body was complete; by the application, as ``write``.
    read: float = 0.0
    #: parsing, decoding and resizing, with the wait for a thread; by the model.
    decode: float = 0.0
    #: waiting for batches; by the batcher, as ``run``.
    queue: float = 0.0
    #: in batches that had rows of the request.
    run: float = 0.0
    #: making the answer's body.
    write: float = 0.0
    #: the batches that had rows of the request; only where somebody asks for them.
    runs: list[Run] | None = None

    def header(self, total: float) -> bytes:
        """The value of ``Server-Timing``, in milliseconds."""
        return (
            f"read;dur={1e3 * self.read:.2f}, decode;dur={1e3 * self.decode:.2f}, "
            f"queue;dur={1e3 * self.queue:.2f}, run;dur={1e3 * self.run:.2f}, "
            f"write;dur={1e3 * self.write:.2f}, total;dur={1e3 * total:.2f}"
        ).encode()
