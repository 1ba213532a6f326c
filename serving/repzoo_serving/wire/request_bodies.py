"""Request bodies -> checked options, and images or latents.

Whatever the format, a request is a set of options and a payload. Options are checked strictly: an
unknown field, or a value of another type, is refused and never ignored. In a form, a list is the
text of its JSON.

    ============================  =======================  =====================================
    format                        options                  payload
    ============================  =======================  =====================================
    ``application/json``          members                  ``images``: encoded files as base64 or
                                                           ``data:`` URLs;
                                                           ``latents``: a list of lists
    ``multipart/form-data``       text fields              ``images``: encoded files
    ``application/x-safetensors`` JSON object in the       ``images`` uint8 [N, H, W, C];
                                  metadata's ``request``   ``latents`` float32 [N, D]
    ============================  =======================  =====================================

A body is refused as early as its size shows: the values in a JSON text are counted before any of
them is parsed, and a list is checked up to its first error.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
import pydantic_core
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from repzoo.report import printable
from repzoo.runtime.contents import Vary

from repzoo_serving.http.problems import Problem
from repzoo_serving.wire import multipart, tensors
from repzoo_serving.wire.findings import describe

__all__ = [
    "CAPABILITIES",
    "MAX_NEIGHBOURS",
    "MEDIA_TYPES",
    "OPERATIONS",
    "PAYLOADS",
    "Bounds",
    "EmbedOptions",
    "GenerateOptions",
    "Metric",
    "Options",
    "PosteriorOptions",
    "ProbeOptions",
    "Request",
    "SearchOptions",
    "image_file",
    "json_object",
    "media_type",
    "parse",
    "too_many",
]

MEDIA_TYPES = ("application/json", "multipart/form-data", tensors.SAFETENSORS_TYPE)


class Options(BaseModel):
    """Options of every operation: the model's name, and the format of vectors in JSON responses."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    encoding_format: Literal["float", "base64"] = "float"


class EmbedOptions(Options):
    """Options of ``/embed``. ``dimensions``, if given, must be the model's own."""

    robust: bool = Field(
        False,
        description="Return the content mean: the expected embedding of an undegraded picture of "
        "the same content.",
    )
    normalize: bool = Field(False, description="Scale every embedding to length 1.")
    dimensions: int | None = Field(None, ge=1)


def _list_of_form(value: Any, info: ValidationInfo) -> Any:
    """Parse a list that is a text field of a form, whose bounds are the context."""
    if not isinstance(value, str) or not isinstance(info.context, Bounds):
        return value
    if value.count(",") >= info.context.max_items:
        raise ValueError(f"at most {info.context.max_items} numbers")
    try:
        return pydantic_core.from_json(value)
    except ValueError as error:
        raise ValueError(f"not a list in JSON: {error}") from None


#: The largest ``k`` of ``/search``.
MAX_NEIGHBOURS = 100

#: The metrics of ``/search``, which are those of `PosteriorIndex.search`.
Metric = Literal["mean", "trusted", "w2", "csd", "content", "robust", "euclidean", "cosine"]

#: An id that JavaScript can hold.
_Id = Annotated[int, Field(ge=0, lt=2**53)]


class PosteriorOptions(Options):
    """Options of ``/posterior``."""

    group: Annotated[list[_Id] | None, BeforeValidator(_list_of_form)] = Field(
        None,
        description="An id for each image. Images with the same id are views of one thing. They "
        "are fused into one row, in the order in which ids first appear: mean and variance are "
        "then those of the content that the views share. In a form, the text of the list.",
    )

    content: bool = Field(
        False,
        description="Accept a content posterior alone, if the model has no other posterior.",
    )


class GenerateOptions(Options):
    """Options of ``/generate``. Latents are sent alone; ``vary`` is for images."""

    n: int = Field(1, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**64)
    vary: Vary = Field(
        "both",
        description="What differs between new views of the thing that the images show: the "
        "content, as far as the images leave it open, the style, or both.",
    )


class ProbeOptions(Options):
    """Options of ``/probe``."""

    task: str
    kind: str = "linear"


class SearchOptions(Options):
    """Options of ``/search``."""

    k: int = Field(
        10, ge=1, le=MAX_NEIGHBOURS, description="The number of neighbours of each image."
    )
    metric: Metric = Field(
        "mean",
        description="The distance, as of zoo index search. mean is the distance that the model "
        "recommends, euclidean (squared) or cosine (1 - cos), and its name works too. robust needs "
        "an index of content posteriors, content one of the encoder's.",
    )
    max_uncertainty: float | None = Field(
        None, ge=0, le=1, description="Skip images of the index that are more uncertain."
    )
    abstain: float | None = Field(
        None, ge=0, le=1, description="Return no neighbours of images that are more uncertain."
    )


OptionsT = TypeVar("OptionsT", bound=Options)

#: Options of each operation. The operation's name is also its path.
OPERATIONS: Mapping[str, type[Options]] = {
    "embed": EmbedOptions,
    "posterior": PosteriorOptions,
    "reconstruct": Options,
    "generate": GenerateOptions,
    "probe": ProbeOptions,
    "search": SearchOptions,
}


#: Values of ``capabilities`` in ``/models``: the operations, ``content`` for `robust`, and
#: ``views`` for new views of one thing.
CAPABILITIES = (*OPERATIONS, "content", "views")

#: The payloads of each operation, of which a request holds one. Only ``generate`` needs none.
PAYLOADS: Mapping[str, tuple[str, ...]] = {"generate": ("latents", "images")}


@dataclass(frozen=True)
class Bounds:
    """How much a body may hold: images or latents, and numbers per row of latents."""

    max_items: int
    max_row: int = 0

    @cached_property
    def max_values(self) -> int:
        """Values in a JSON text: some per item (an image may be nested objects), and some more."""
        return self.max_items * max(8, self.max_row) + 1024


@dataclass(frozen=True)
class Request(Generic[OptionsT]):
    """A request, checked as far as possible without its model.

    At most one payload is set: ``files`` are encoded images, ``pixels`` uint8 ``[N, H, W, C]``,
    ``latents`` float32 ``[N, D]``. ``names`` are those of the files of a form.
    """

    options: OptionsT
    files: list[bytes] | None = None
    names: Sequence[str] = ()
    pixels: NDArray[np.uint8] | None = None
    latents: NDArray[np.float32] | None = None

    def name_of(self, index: int) -> str | None:
        """Return the name of a file, for errors, if it says more than its position."""
        name = printable(self.names[index]) if index < len(self.names) else ""
        if name in ("", str(index)):
            return None
        return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."

    @property
    def has_images(self) -> bool:
        return self.files is not None or self.pixels is not None

    @property
    def items(self) -> int:
        """Number of images or latents that it holds or asks for."""
        asked = self.options.n if isinstance(self.options, GenerateOptions) else 0
        for payload in (self.files, self.pixels, self.latents):
            if payload is not None:
                return max(asked, len(payload))
        return asked


@dataclass
class _Parts:
    """A body in parts. ``from_text`` means that all options are text, whatever their type.

    ``names`` are those of the files of a form.
    """

    options: Mapping[str, Any]
    payload: dict[str, Any] = field(default_factory=dict)
    from_text: bool = False
    names: list[str] = field(default_factory=list)


_OBJECT = re.compile(rb"[ \t\r\n]*\{")

#: How much of a file's name an error quotes.
_LONGEST_NAME = 100

#: Text fields that a form may have: all options, and some more, so that errors can name them.
_MAX_FIELDS = 16

_STRINGS = TypeAdapter(Annotated[list[str], FailFast()], config=ConfigDict(strict=True))
_ROWS = TypeAdapter(
    Annotated[list[Annotated[list[float], FailFast()]], FailFast()],
    config=ConfigDict(strict=True, allow_inf_nan=False),
)


def parse(
    body: bytes,
    content_type: bytes,
    options: type[OptionsT],
    payloads: tuple[str, ...] = ("images",),
    *,
    bounds: Bounds,
) -> Request[OptionsT]:
    """Parse and check the body of an operation's request.

    Args:
        body: The whole body.
        content_type: The header as it was sent.
        options: The options that the operation takes.
        payloads: The payloads that it takes, of which a request holds one. It may hold none if
            there is a choice.
        bounds: How much the body may hold.

    Raises:
        Problem: 400, 413 or 415, or 422 for an image that is not base64.
    """
    try:
        match media_type(content_type):
            case "application/json":
                parts = _from_json(body, payloads, bounds)
            case "multipart/form-data":
                parts = _from_form(body, content_type, payloads, bounds)
            case tensors.SAFETENSORS_TYPE:
                parts = _from_safetensors(body, bounds)
            case other:
                raise Problem(
                    "unsupported-media-type",
                    f"the Content-Type is {other or 'missing'}; expected one of "
                    + ", ".join(MEDIA_TYPES),
                )
        checked = (
            options.model_validate_strings(parts.options, context=bounds)
            if parts.from_text
            else options.model_validate(parts.options)
        )
        if unknown := sorted(parts.payload.keys() - {*payloads}):
            raise ValueError(f"{', '.join(unknown)}: not supported by this operation")
        if len(parts.payload) > 1:
            raise ValueError(f"{' and '.join(sorted(parts.payload))} cannot be combined")
    except ValidationError as error:
        known = [*options.model_fields, *payloads]
        raise Problem("malformed-request", describe(error, known)) from None
    except ValueError as error:
        raise Problem("malformed-request", str(error)) from None
    if parts.payload:
        ((payload, value),) = parts.payload.items()
        return _with_payload(checked, payload, value, parts.names, bounds)
    if len(payloads) == 1:
        raise Problem("malformed-request", f"{payloads[0]}: required")
    return Request(checked)


def media_type(content_type: bytes) -> str:
    """Return the type in a Content-Type header, without its parameters."""
    return content_type.split(b";", 1)[0].strip().lower().decode("latin-1")


def _with_payload(
    options: OptionsT, payload: str, value: Any, names: Sequence[str], bounds: Bounds
) -> Request[OptionsT]:
    if len(value) == 0:
        raise Problem("malformed-request", f"{payload}: at least one is required")
    if len(value) > bounds.max_items:
        raise too_many(payload, str(len(value)), bounds)
    if payload == "latents":
        return Request(options, latents=_latents(value))
    if isinstance(value, np.ndarray):
        return Request(options, pixels=value)
    files = [v if isinstance(v, bytes) else image_file(v, index) for index, v in enumerate(value)]
    return Request(options, files=files, names=names)


def _from_json(body: bytes, payloads: tuple[str, ...], bounds: Bounds) -> _Parts:
    document = json_object(body, "the body", bounds, payloads[0])
    parts = _Parts(document)
    for payload in payloads:
        value = document.pop(payload, None)
        if value is None:
            continue
        if isinstance(value, list) and len(value) > bounds.max_items:
            raise too_many(payload, str(len(value)), bounds)
        adapter: TypeAdapter[Any] = _STRINGS if payload == "images" else _ROWS
        try:
            parts.payload[payload] = adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(describe(error, (), payload)) from None
    return parts


def _from_form(
    body: bytes, content_type: bytes, payloads: tuple[str, ...], bounds: Bounds
) -> _Parts:
    try:
        form = multipart.parse(body, content_type, max_parts=bounds.max_items + _MAX_FIELDS)
    except multipart.TooManyParts:
        raise too_many("images", f"more than {bounds.max_items}", bounds) from None
    options: dict[str, str] = {}
    for name, text in form.fields:
        if name in options:
            raise ValueError(f"{name}: given twice")
        options[name] = text
    for payload in payloads:
        if payload in options:
            raise ValueError(f"{payload}: cannot be a text field; send images as files")
    parts = _Parts(options, from_text=True)
    for name, file, content in form.files:
        if name != "images":
            raise ValueError(f"{name}: unknown file field; image files must be named 'images'")
        parts.payload.setdefault(name, []).append(content)
        parts.names.append(file)
    return parts


def _from_safetensors(body: bytes, bounds: Bounds) -> _Parts:
    arrays, metadata = tensors.parse(body)
    if unknown := sorted(metadata.keys() - {"request"}):
        raise ValueError(f"metadata {', '.join(unknown)}: unknown; only 'request' is allowed")
    document = json_object(metadata.get("request", "{}"), "metadata 'request'", bounds)
    kinds = {"images": ("uint8", 4, "[N, H, W, C]"), "latents": ("float32", 2, "[N, D]")}
    for name, array in arrays.items():
        if name not in kinds:
            raise ValueError(f"tensor {name!r} is unknown; expected images or latents")
        dtype, ndim, shape = kinds[name]
        if array.dtype != dtype or array.ndim != ndim:
            raise ValueError(
                f"{name}: expected {dtype} {shape}, got {array.dtype} {list(array.shape)}"
            )
    return _Parts(document, dict(arrays))


def too_many(payload: str, found: str, bounds: Bounds) -> Problem:
    """Return the problem for a request with too many items."""
    return Problem(
        "too-many-images",
        f"{payload}: a request may have at most {bounds.max_items}, got {found}",
        limit=bounds.max_items,
    )


def json_object(
    text: bytes | str, what: str, bounds: Bounds, payload: str = "images"
) -> dict[str, Any]:
    """Parse a JSON object; errors call it ``what``.

    Raises:
        Problem: 413 if it has more values than ``bounds`` allow.
        ValueError: If it is not a JSON object.
    """
    data = text.encode() if isinstance(text, str) else text
    if _OBJECT.match(data) is None:  # perhaps a file, whose commas are not between values
        raise ValueError(f"{what} must be a JSON object, which starts with {{")
    values = data.count(b",") + 1
    if values > bounds.max_values:
        raise Problem(
            "too-many-images",
            f"{what} has {values} JSON values; a request may have at most {bounds.max_values}, and "
            f"{bounds.max_items} {payload}",
            limit=bounds.max_items,
        )
    try:
        document: dict[str, Any] = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from None
    if len(document) > _MAX_FIELDS:
        raise ValueError(f"{what} has {len(document)} members; there are fewer options")
    return document


def image_file(text: str, index: int) -> bytes:
    """Return the file that is text in a JSON body: base64, or a data: URL with it.

    Raises:
        Problem: 422 if it is neither.
    """
    scheme, colon, rest = text[:4096].partition(":")
    if colon and scheme.lower() == "data":
        head, comma, _ = rest.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise _no_file(index, "a data: URL must hold base64: data:image/png;base64,...")
        text = text[len(scheme) + len(head) + 2 :]
    elif colon:
        raise _no_file(index, "URLs are not fetched; send a data: URL or the base64 of the file")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, and text that is not ASCII
        raise _no_file(
            index,
            f"neither a data: URL nor the base64 of a file ({error}); text cannot be embedded",
        ) from None


def _no_file(index: int, detail: str) -> Problem:
    return Problem("invalid-image", f"image {index}: {detail}", index=index)


def _latents(value: Any) -> NDArray[np.float32]:
    if isinstance(value, list):
        if len({len(row) for row in value}) != 1:
            raise Problem("malformed-request", "latents: all rows must have the same length")
        # Numbers beyond the range of float32 become infinite here, and are refused below.
        with np.errstate(over="ignore"):
            value = np.asarray(value, np.float64).astype(np.float32)
    latents: NDArray[np.float32] = value
    if not np.isfinite(latents).all():
        raise Problem("malformed-request", "latents: all numbers must be finite in float32")
    return latents
