"""Bodies of requests -> checked options, and images or latents.

Whatever the format, a request is a set of options and a payload. Options are checked strictly: a
field that the operation does not know, or a value of another type, is refused rather than ignored.

    ============================  =======================  =====================================
    format                        options                  payload
    ============================  =======================  =====================================
    ``application/json``          members                  ``images``: base64 of encoded files;
                                                           ``latents``: a list of lists
    ``multipart/form-data``       text fields              ``images``: encoded files
    ``application/x-safetensors`` JSON object in the       ``images`` uint8 [N, H, W, C];
                                  metadata's ``request``   ``latents`` float32 [N, D]
    ============================  =======================  =====================================
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pydantic_core
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from repzoo_serving.http.problems import Problem
from repzoo_serving.wire import multipart, tensors

__all__ = [
    "OPERATIONS",
    "MEDIA_TYPES",
    "EmbedOptions",
    "GenerateOptions",
    "Options",
    "ProbeOptions",
    "Request",
    "json_object",
    "media_type",
    "parse",
    "sentence",
    "too_many",
]

MEDIA_TYPES = ("application/json", "multipart/form-data", tensors.SAFETENSORS_TYPE)


class Options(BaseModel):
    """What every operation takes: the name of the model, and how JSON answers have vectors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    encoding_format: Literal["float", "base64"] = "float"


class EmbedOptions(Options):
    """Of ``/embed``. ``dimensions``, where it is given, must be the model's own."""

    normalize: bool = False
    dimensions: int | None = Field(None, ge=1)


class GenerateOptions(Options):
    """Of ``/generate``. ``n`` and ``seed`` have no meaning where latents are given."""

    n: int = Field(1, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**64)


class ProbeOptions(Options):
    """Of ``/probe``."""

    task: str
    kind: str = "linear"


OptionsT = TypeVar("OptionsT", bound=Options)

#: The operations by name, which is also their path, and the options that each takes.
OPERATIONS: Mapping[str, type[Options]] = {
    "embed": EmbedOptions,
    "posterior": Options,
    "reconstruct": Options,
    "generate": GenerateOptions,
    "probe": ProbeOptions,
}


@dataclass(frozen=True)
class Request(Generic[OptionsT]):
    """One request, checked as far as it can be without its model.

    At most one of the payloads is there: ``files`` are encoded images, ``pixels`` uint8
    ``[N, H, W, C]``, ``latents`` float32 ``[N, D]``.
    """

    options: OptionsT
    files: list[bytes] | None = None
    pixels: NDArray[np.uint8] | None = None
    latents: NDArray[np.float32] | None = None

    @property
    def items(self) -> int:
        """How many images or latents it has, or asks for."""
        for payload in (self.files, self.pixels, self.latents):
            if payload is not None:
                return len(payload)
        return self.options.n if isinstance(self.options, GenerateOptions) else 0


@dataclass
class _Parts:
    """A body taken apart. ``from_text`` says that the options are text, whatever their type."""

    options: Mapping[str, Any]
    payload: dict[str, Any] = field(default_factory=dict)
    from_text: bool = False


#: Text fields that a form may have, each option once and some more, to be told what is wrong.
_MAX_FIELDS = 16

_STRINGS = TypeAdapter(list[str], config=ConfigDict(strict=True))
_ROWS = TypeAdapter(list[list[float]], config=ConfigDict(strict=True, allow_inf_nan=False))


def parse(
    body: bytes, content_type: bytes, options: type[OptionsT], payload: str, *, max_items: int
) -> Request[OptionsT]:
    """Check one body against its operation.

    Args:
        body: the whole body.
        content_type: the header as it came.
        options: which options the operation takes.
        payload: what it takes besides, ``"images"`` (required) or ``"latents"`` (optional).
        max_items: the most images or latents.

    Raises:
        Problem: 400, 413, 415, or 422 for an image that is no base64.
    """
    try:
        match media_type(content_type):
            case "application/json":
                parts = _from_json(body, payload)
            case "multipart/form-data":
                parts = _from_form(body, content_type, payload, max_items)
            case tensors.SAFETENSORS_TYPE:
                parts = _from_safetensors(body)
            case other:
                raise Problem(
                    "unsupported-media-type",
                    f"the body is {other or 'of no stated type'}; send one of "
                    + ", ".join(MEDIA_TYPES),
                )
        checked = (
            options.model_validate_strings(parts.options)
            if parts.from_text
            else options.model_validate(parts.options)
        )
        if unknown := sorted(parts.payload.keys() - {payload}):
            raise ValueError(f"{', '.join(unknown)}: not known to this operation")
    except ValidationError as error:
        raise Problem("malformed-request", sentence(error)) from None
    except ValueError as error:
        raise Problem("malformed-request", str(error)) from None
    if payload not in parts.payload:
        if payload == "images":
            raise Problem("malformed-request", "images: nothing was sent")
        return Request(checked)
    return _with_payload(checked, payload, parts.payload[payload], max_items)


def media_type(content_type: bytes) -> str:
    """The type that a Content-Type header names, without its parameters."""
    return content_type.split(b";", 1)[0].strip().lower().decode("latin-1")


def _with_payload(options: OptionsT, payload: str, value: Any, max_items: int) -> Request[OptionsT]:
    if len(value) == 0:
        raise Problem("malformed-request", f"{payload}: at least one is needed")
    if len(value) > max_items:
        raise too_many(payload, str(len(value)), max_items)
    if payload == "latents":
        return Request(options, latents=_latents(value))
    if isinstance(value, np.ndarray):
        return Request(options, pixels=value)
    return Request(options, files=[_file(item, index) for index, item in enumerate(value)])


def _from_json(body: bytes, payload: str) -> _Parts:
    document = json_object(body, "the body")
    value = document.pop(payload, None)
    parts = _Parts(document)
    if value is not None:
        adapter: TypeAdapter[Any] = _STRINGS if payload == "images" else _ROWS
        try:
            parts.payload[payload] = adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(sentence(error, payload)) from None
    return parts


def _from_form(body: bytes, content_type: bytes, payload: str, max_items: int) -> _Parts:
    try:
        form = multipart.parse(body, content_type, max_parts=max_items + _MAX_FIELDS)
    except multipart.TooManyParts:
        raise too_many(payload, "there", max_items) from None
    options: dict[str, str] = {}
    for name, text in form.fields:
        if name in options:
            raise ValueError(f"{name}: given twice")
        options[name] = text
    if payload in options:
        raise ValueError(f"{payload}: not as a text field; in a form, images are files")
    parts = _Parts(options, from_text=True)
    for name, content in form.files:
        if name != "images":
            raise ValueError(f"{name}: not known as a file; images are called 'images'")
        parts.payload.setdefault(name, []).append(content)
    return parts


def _from_safetensors(body: bytes) -> _Parts:
    arrays, metadata = tensors.parse(body)
    if unknown := sorted(metadata.keys() - {"request"}):
        raise ValueError(f"metadata {', '.join(unknown)}: only 'request' is known")
    document = json_object(metadata.get("request", "{}"), "metadata 'request'")
    kinds = {"images": ("uint8", 4, "[N, H, W, C]"), "latents": ("float32", 2, "[N, D]")}
    for name, array in arrays.items():
        if name not in kinds:
            raise ValueError(f"tensor {name!r} is not known here")
        dtype, ndim, shape = kinds[name]
        if array.dtype != dtype or array.ndim != ndim:
            raise ValueError(
                f"{name}: {array.dtype} {list(array.shape)} was sent; expected {dtype} {shape}"
            )
    return _Parts(document, dict(arrays))


def too_many(payload: str, found: str, max_items: int) -> Problem:
    """The problem of a request with ``found`` items."""
    return Problem(
        "too-many-images",
        f"{payload}: {found} are more than the {max_items} that one request may have",
        limit=max_items,
    )


def json_object(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object; ``what`` names it in the ValueError that is raised if it is none."""
    try:
        document = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"{what} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{what} is not a JSON object")
    return document


def _file(item: str | bytes, index: int) -> bytes:
    if isinstance(item, bytes):
        return item
    try:
        return binascii.a2b_base64(item, strict_mode=True)
    except ValueError as error:  # binascii.Error is one; so is text that is not ASCII
        raise Problem(
            "invalid-image", f"image {index}: not base64 of a file: {error}", index=index
        ) from None


def _latents(value: Any) -> NDArray[np.float32]:
    if isinstance(value, list):
        if len({len(row) for row in value}) != 1:
            raise Problem("malformed-request", "latents: the rows differ in length")
        # A number beyond float32 becomes infinite here, and is refused below.
        with np.errstate(over="ignore"):
            value = np.asarray(value, np.float64).astype(np.float32)
    latents: NDArray[np.float32] = value
    if not np.isfinite(latents).all():
        raise Problem("malformed-request", "latents: every number must be finite in float32")
    return latents


def sentence(error: ValidationError, prefix: str = "") -> str:
    """The first few findings of pydantic, in one line."""
    findings = error.errors(include_url=False, include_input=False, include_context=False)
    lines = []
    for finding in findings[:3]:
        place = ".".join([prefix, *map(str, finding["loc"])]).strip(".")
        lines.append(f"{place or 'the body'}: {finding['msg']}")
    if len(findings) > 3:
        lines.append(f"and {len(findings) - 3} more")
    return "; ".join(lines)
