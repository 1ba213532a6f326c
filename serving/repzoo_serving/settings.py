"""Settings of a server: the models to serve, who may use it, and its limits.

Every setting can be a key of a TOML file, a ``REPZOO_SERVE_*`` variable or a flag of ``zoo serve``;
see `repzoo_serving.configuration`. Each worker has its own models in memory, queues, limits, rates
and metrics. Workers share the port, the settings and the file of keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = ["PRIVATE", "SECTIONS", "Limits", "Settings"]


def _split(value: object) -> object:
    """Split ``"a, b"``, or a JSON list if names have commas, into ``("a", "b")``."""
    if isinstance(value, str):
        if value.startswith("["):
            return tuple(json.loads(value))
        return tuple(part for part in (p.strip() for p in value.split(",")) if part)
    return value


#: As browsers send them; no other text would ever match.
_ORIGIN = re.compile(
    r"\*|null|(?!https://.*:443$|http://.*:80$)[a-z][a-z0-9+.-]*://[a-z0-9.:[\]-]+"
)


def _require_origin(value: str) -> str:
    if _ORIGIN.fullmatch(value) is None:
        raise ValueError(
            "expected * or an origin as browsers send it: lower case, without a path or a default "
            "port, such as https://app.example"
        )
    return value


def _require_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("expected a URL such as http://127.0.0.1:4318")
    return value


class Limits(BaseModel):
    """Limits of requests and queues. ``/models`` reports them to clients."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(32 * 2**20, gt=0, description="Bytes in the body of one request.")
    max_images: int = Field(1024, gt=0, description="Images or latents in one request.")
    max_pixels: int = Field(
        16 * 2**20,
        gt=0,
        description="Pixels of one image in memory, checked before it is decoded. A JPEG file that "
        "is decoded at a smaller scale may have four times as many.",
    )
    max_batch: int = Field(1024, gt=0, description="Images in one run of a model.")
    max_queued: int = Field(
        4096,
        gt=0,
        description="Images waiting per model and operation, and files waiting to be decoded.",
    )
    deadline_seconds: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="Time to receive and answer one request; then it gets 504.",
    )

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

    models: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        (),
        description="Models to serve: names, NAME@REVISION, or package folders. "
        "ALIAS=NAME@REVISION serves one under another name.",
    )
    watch: str | None = Field(
        None,
        description="File that lists models to serve instead, one per line; reloaded when it "
        "changes.",
    )
    hub: str | None = Field(
        None, description="Hub in which names are looked up; otherwise that of REPZOO_HUB."
    )
    provider: Literal["cpu", "cuda"] | None = Field(
        None, description="Where the models run: by default a GPU if one works, otherwise the CPU."
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="Threads for running models, and for decoding: by default one per core. Set it "
        "in a container with a CPU limit.",
    )
    index: str | None = Field(
        None,
        description="Index of images, made by zoo index build. /search and the explorer find "
        "neighbours in it. It is read once, at the start.",
    )
    index_images: str | None = Field(
        None, description="Folder of the index's images, if they are no longer where they were."
    )
    workers: int = Field(
        1, ge=1, le=256, description="Processes on the port, each with all models."
    )
    host: str = Field(
        "127.0.0.1", description="Address on which zoo serve listens; 0.0.0.0 means all."
    )
    port: int = Field(
        3000, ge=0, le=65535, description="Port on which zoo serve listens; 0 chooses a free one."
    )
    keys: str | None = Field(
        None, description="File of API keys, see zoo keys. With it, requests need a key."
    )
    rate: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Requests per second of each key that has no rate of its own; 0 is no limit.",
    )
    public: Annotated[
        tuple[Literal["health", "metrics", "pages"], ...], BeforeValidator(_split)
    ] = Field(("health", "pages"), description="What needs no key: health, metrics, pages.")
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_require_origin)], ...], BeforeValidator(_split)
    ] = Field(
        (),
        description="Origins of web pages that may call the server (CORS), such as "
        "https://app.example, or * for all.",
    )
    max_head_bytes: int = Field(
        65536, ge=1024, description="Bytes in the request line and headers."
    )
    head_seconds: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Time to receive a request line and headers once they have begun.",
    )
    idle_seconds: float = Field(
        75.0,
        gt=0,
        allow_inf_nan=False,
        description="Time after which a connection is closed if no request is sent or no response "
        "is read.",
    )
    drain_seconds: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Minimum time between SIGTERM and exit, during which requests are refused.",
    )
    hang_seconds: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="A longer run of a model makes /readyz fail; after another deadline, /livez "
        "fails too.",
    )
    log: Literal["none", "json"] = Field(
        "none", description="json logs to stdout, one JSON object per line and request."
    )
    otlp: Annotated[str, AfterValidator(_require_url)] | None = Field(
        None,
        description="URL of an OpenTelemetry collector that receives spans by OTLP/HTTP, such as "
        "http://127.0.0.1:4318.",
    )
    #: A key with which the supervisor checks that the server is up.
    supervisor_key: str | None = None
    #: The process that started this one; this one exits with it.
    supervisor: int | None = None
    #: The file in which it counts the workers that died.
    supervisor_deaths: str | None = None

    @property
    def limits(self) -> Limits:
        return Limits.model_validate(self.model_dump(include=set(Limits.model_fields)))


#: What only the supervisor sets, for its workers.
PRIVATE = frozenset({"supervisor", "supervisor_deaths", "supervisor_key"})

#: All other settings, as help and documents list them.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Models": ("models", "watch", "hub", "provider", "threads", "workers", "index", "index_images"),
    "Address": ("host", "port"),
    "Access": ("keys", "rate", "public", "cors_origins"),
    "Limits": (
        "max_bytes",
        "max_images",
        "max_pixels",
        "max_batch",
        "max_queued",
        "max_head_bytes",
    ),
    "Times in seconds": (
        *("deadline_seconds", "head_seconds", "idle_seconds", "drain_seconds", "hang_seconds"),
    ),
    "Logs and traces": ("log", "otlp"),
}
