"""What a server is told when it starts: the models to serve and its limits.

The supervisor hands the settings to its workers through ``REPZOO_SERVE_*`` variables, and a
deployment without ``zoo serve`` (``bentoml serve repzoo_serving.service:RepzooService``) sets the
same ones:

    =============================  ==========  ==================================================
    variable                       default     meaning
    =============================  ==========  ==================================================
    REPZOO_SERVE_MODELS            (none)      names, NAME@REVISION or package folders, by commas
    REPZOO_SERVE_WATCH             (none)      file of such, one a line, in their place; the worker
                                               serves what it says, also when it changes
    REPZOO_SERVE_HUB               (none)      where names are looked up; as ``--hub``
    REPZOO_SERVE_PROVIDER          (best)      cpu or cuda
    REPZOO_SERVE_THREADS           (cores)     threads of a run, and for decoding; set it where CPUs
                                               are limited, of which the machine tells nothing
    REPZOO_SERVE_MAX_BYTES         33554432    bytes in the body of one request
    REPZOO_SERVE_MAX_IMAGES        1024        images, or latents, in one request
    REPZOO_SERVE_MAX_PIXELS        16777216    pixels in one encoded image, before it is decoded
    REPZOO_SERVE_MAX_BATCH         1024        images in one run of a model, at most
    REPZOO_SERVE_MAX_QUEUED        4096        images waiting, per model and operation; and files
                                               waiting to be decoded, of all
    REPZOO_SERVE_DEADLINE_SECONDS  30          a request is answered by then, or with a 504
    REPZOO_SERVE_DRAIN_SECONDS     0           after SIGTERM, refuse at least so long before the end
    REPZOO_SERVE_HANG_SECONDS      10          a run that takes longer turns ``/readyz`` red, and
                                               ``/livez`` too if it takes the deadline more
    REPZOO_SERVE_LOG               none        json: a line for each request
    REPZOO_SERVE_OTLP              (none)      URL of an OpenTelemetry collector that takes spans of
                                               requests by OTLP/HTTP, http://127.0.0.1:4318 say;
                                               see `repzoo_serving.telemetry.tracing`
    REPZOO_SERVE_KEYS              (none)      file of API keys; without one nobody needs a key
    REPZOO_SERVE_RATE              0           requests a second for each key; 0: any number
    REPZOO_SERVE_PUBLIC            health,     of health, metrics and pages, what needs no key
                                   pages
    REPZOO_SERVE_CORS_ORIGINS      (none)      origins of web pages that may ask, by commas, or *
    REPZOO_SERVE_WORKERS           1           processes on the port, each with all models
    =============================  ==========  ==================================================

Of several workers each has its own models in memory, queues, limits, rates and metrics: what a
request meets is what its worker has. They share the port, the settings, and the file of keys.
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
    """``"a, b"``, or a JSON list where names have commas, -> ``("a", "b")``."""
    if isinstance(value, str):
        if value.startswith("["):
            return tuple(json.loads(value))
        return tuple(part for part in (p.strip() for p in value.split(",")) if part)
    return value


class Limits(BaseModel):
    """What one request, and one queue, may take. ``/models`` reports them to the callers."""

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
                f"max_queued ({self.max_queued}) is less than max_images ({self.max_images}): "
                f"the largest requests would never be accepted"
            )
        return self


class Settings(Limits):
    """The limits, and what to serve."""

    models: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    watch: str | None = None
    hub: str | None = None
    provider: Literal["cpu", "cuda"] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
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
    #: With it the one who started the server asks whether it is up.
    supervisor_key: str | None = None
    #: The process that started this one and without which it shall not live on.
    supervisor: int | None = None

    @property
    def limits(self) -> Limits:
        return Limits.model_validate(self.model_dump(include=set(Limits.model_fields)))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the ``REPZOO_SERVE_*`` variables.

        Raises:
            InvalidInput: naming the variable, if one has no such meaning or value.
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
        """The variables from which :meth:`from_environ` gives these settings again."""
        values = self.model_dump(exclude_none=True, exclude_defaults=True)
        return {
            _PREFIX + key.upper(): json.dumps(value) if isinstance(value, tuple) else str(value)
            for key, value in values.items()
        }
