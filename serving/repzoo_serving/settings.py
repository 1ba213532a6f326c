"""Settings of a server: the models to serve, and its limits.

The supervisor passes the settings to its workers through ``REPZOO_SERVE_*`` variables. A deployment
without ``zoo serve`` (``bentoml serve repzoo_serving.service:RepzooService``) sets the same
variables:

    =============================  ==========  ==================================================
    variable                       default     meaning
    =============================  ==========  ==================================================
    REPZOO_SERVE_MODELS            (none)      comma-separated names, NAME@REVISION or folders; any
                                               of them after ALIAS= has that name instead
    REPZOO_SERVE_WATCH             (none)      file that lists models instead, one per line; it is
                                               reloaded when it changes
    REPZOO_SERVE_HUB               (none)      the hub in which names are looked up
    REPZOO_SERVE_PROVIDER          (best)      cpu or cuda
    REPZOO_SERVE_THREADS           (cores)     threads per run, and for decoding; set it if the CPUs
                                               of a container are limited
    REPZOO_SERVE_MAX_BYTES         33554432    bytes in the body of a request
    REPZOO_SERVE_MAX_IMAGES        1024        images, or latents, in a request
    REPZOO_SERVE_MAX_PIXELS        16777216    pixels of an image in memory, checked before
                                               decoding; scaled JPEG files may have four times as
                                               many, see `repzoo.runtime.images`
    REPZOO_SERVE_MAX_BATCH         1024        images in a run of a model
    REPZOO_SERVE_MAX_QUEUED        4096        images waiting per model and operation, and files
                                               waiting to be decoded
    REPZOO_SERVE_MAX_HEAD_BYTES    65536       bytes in the request line and headers
    REPZOO_SERVE_DEADLINE_SECONDS  30          time to receive and answer a request; then, 504
    REPZOO_SERVE_HEAD_SECONDS      10          time to receive a request line and headers once they
                                               have begun
    REPZOO_SERVE_IDLE_SECONDS      75          time after which a connection is closed on which no
                                               request is sent, or no response is read
    REPZOO_SERVE_DRAIN_SECONDS     0           minimum time between SIGTERM and exit, in which new
                                               requests are refused
    REPZOO_SERVE_HANG_SECONDS      10          a longer run makes ``/readyz`` fail, and ``/livez``
                                               if it also exceeds the deadline
    REPZOO_SERVE_LOG               none        json: a line per request
    REPZOO_SERVE_OTLP              (none)      URL of an OpenTelemetry collector for spans of
                                               requests by OTLP/HTTP, such as
                                               http://127.0.0.1:4318; see
                                               `repzoo_serving.telemetry.tracing`
    REPZOO_SERVE_KEYS              (none)      file of API keys; without it, no key is needed
    REPZOO_SERVE_RATE              0           requests per second for each key; 0 means no limit
    REPZOO_SERVE_PUBLIC            health,     what needs no key: health, metrics, pages
                                   pages
    REPZOO_SERVE_CORS_ORIGINS      (none)      comma-separated origins of web pages that may send
                                               requests, or *
    REPZOO_SERVE_WORKERS           1           processes on the port, each with all models
    =============================  ==========  ==================================================

Each worker has its own models in memory, queues, limits, rates and metrics. Workers share the
port, the settings and the file of keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from repzoo.errors import InvalidInput

__all__ = ["Limits", "Settings"]

_PREFIX = "REPZOO_SERVE_"


def _split(value: object) -> object:
    """Split ``"a, b"``, or a JSON list if names have commas, into ``("a", "b")``."""
    if isinstance(value, str):
        if value.startswith("["):
            return tuple(json.loads(value))
        return tuple(part for part in (p.strip() for p in value.split(",")) if part)
    return value


class Limits(BaseModel):
    """Limits of requests and queues. ``/models`` reports them to clients."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(32 * 2**20, gt=0)
    max_images: int = Field(1024, gt=0)
    max_pixels: int = Field(16 * 2**20, gt=0)
    max_batch: int = Field(1024, gt=0)
    max_queued: int = Field(4096, gt=0)
    deadline_seconds: float = Field(30.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _every_allowed_request_fits_the_queue(self) -> Limits:
        if self.max_queued < self.max_images:
            raise ValueError(
                f"max_queued ({self.max_queued}) must be at least max_images ({self.max_images}), "
                f"or the largest requests would never be accepted"
            )
        return self


class Settings(Limits):
    """All settings of a server."""

    models: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    watch: str | None = None
    hub: str | None = None
    provider: Literal["cpu", "cuda"] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    max_head_bytes: int = Field(65536, ge=1024)
    head_seconds: float = Field(10.0, gt=0, allow_inf_nan=False)
    idle_seconds: float = Field(75.0, gt=0, allow_inf_nan=False)
    drain_seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    hang_seconds: float = Field(10.0, gt=0, allow_inf_nan=False)
    log: Literal["none", "json"] = "none"
    otlp: Annotated[str, Field(pattern=r"^https?://")] | None = None
    keys: str | None = None
    rate: float = Field(0.0, ge=0, allow_inf_nan=False)
    public: Annotated[
        tuple[Literal["health", "metrics", "pages"], ...], BeforeValidator(_split)
    ] = ("health", "pages")
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    workers: int = Field(1, ge=1, le=256)
    #: A key with which the supervisor checks that the server is up.
    supervisor_key: str | None = None
    #: The process that started this one; this one exits with it.
    supervisor: int | None = None

    @property
    def limits(self) -> Limits:
        return Limits.model_validate(self.model_dump(include=set(Limits.model_fields)))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the ``REPZOO_SERVE_*`` variables.

        Raises:
            InvalidInput: If a variable is unknown or has an invalid value; the message names it.
        """
        given = {
            key.removeprefix(_PREFIX).lower(): value
            for key, value in environ.items()
            if key.startswith(_PREFIX)
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = "; ".join(
                f"{_PREFIX}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}"
                for e in error.errors()
            )
            raise InvalidInput(problems) from None

    def to_environ(self) -> dict[str, str]:
        """Return the variables from which :meth:`from_environ` restores these settings."""
        values = self.model_dump(exclude_none=True, exclude_defaults=True)
        return {
            _PREFIX + key.upper(): json.dumps(value) if isinstance(value, tuple) else str(value)
            for key, value in values.items()
        }
