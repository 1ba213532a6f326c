"""``POST /v1/embeddings`` and ``GET /v1/models`` of OpenAI's API, for images.

OpenAI's own API embeds text only. All of the ways in which other servers and clients send images
through it are supported; an image is a ``data:`` URL or plain base64:

    ==========================================================  ================================
    request                                                     used by
    ==========================================================  ================================
    ``"input": IMAGE`` or ``[IMAGE, ...]``                      infinity (with ``"modality":
                                                                "image"``), LiteLLM
    ``"input": [{"image": IMAGE}, ...]``                        Jina
    ``"input": [{"type": "image_url",                           content parts, as below
    "image_url": {"url": IMAGE}}, ...]``
    ``"messages": [{"role": "user", "content": [PART]}]``       vLLM; one image, one embedding
    ==========================================================  ================================

URLs with other schemes are refused, because this server fetches nothing. So are texts and tokens.
``encoding_format`` is ``float`` or ``base64`` (the default of OpenAI's client), ``dimensions`` must
be the model's own, and ``user`` is ignored.

Embeddings have length 1, like those of OpenAI, infinity and vLLM, unless ``"normalize": false``
is sent; ``/embed`` only normalizes on request. If the model estimates uncertainty, every item has
``uncertainty``, a field that OpenAI's API does not have. ``"model": "NAME:robust"`` returns the
content mean instead, if the model has a content posterior.

An error is a problem document with OpenAI's ``error`` object as an additional member.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeAlias

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.json_schema import SkipJsonSchema

from repzoo_serving.http.problems import Problem
from repzoo_serving.wire.findings import describe
from repzoo_serving.wire.request_bodies import (
    Bounds,
    EmbedOptions,
    Request,
    image_file,
    json_object,
    media_type,
    too_many,
)
from repzoo_serving.wire.response_bodies import Result, json_vectors

__all__ = [
    "ROBUST",
    "EmbeddingsRequest",
    "encode",
    "error_member",
    "list_models",
    "model_object",
    "parse",
]

#: The suffix of a model's name that requests the content mean. Names of models have no colon.
ROBUST = ":robust"

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


def _no_default(schema: dict[str, Any]) -> None:
    del schema["default"]


#: None if absent; null cannot be sent.
_ABSENT: Any = Field(None, json_schema_extra=_no_default)

#: An image as text.
_Text: TypeAlias = Annotated[
    str,
    Field(
        description="The base64 of an image file, plain or as a data: URL.",
        json_schema_extra={"format": "image"},
    ),
]


class ImageUrl(BaseModel):
    model_config = _STRICT

    url: _Text
    detail: Literal["auto", "low", "high"] | None = None


class ImageUrlPart(BaseModel):
    model_config = _STRICT

    type: Literal["image_url"]
    image_url: ImageUrl


class ImageObject(BaseModel):
    model_config = _STRICT

    image: _Text


class Message(BaseModel):
    model_config = _STRICT

    role: Literal["user"]
    content: Annotated[list[ImageUrlPart], Field(min_length=1, max_length=1)]


_Image: TypeAlias = _Text | ImageObject | ImageUrlPart


class EmbeddingsRequest(BaseModel):
    """The body of a request to ``/v1/embeddings``."""

    model_config = ConfigDict(
        **_STRICT,
        json_schema_extra={"oneOf": [{"required": ["input"]}, {"required": ["messages"]}]},
    )

    model: str
    input: (
        _Text | Annotated[list[_Image], Field(min_length=1, fail_fast=True)] | SkipJsonSchema[None]
    ) = _ABSENT
    messages: Annotated[list[Message], Field(min_length=1, max_length=1)] | SkipJsonSchema[None] = (
        _ABSENT
    )
    modality: Literal["image"] = "image"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    normalize: bool = Field(True, description="Scale every embedding to length 1.")
    user: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> EmbeddingsRequest:
        sent = [name for name in ("input", "messages") if name in self.model_fields_set]
        if len(sent) != 1 or getattr(self, sent[0]) is None:
            raise ValueError("exactly one of input and messages is required")
        return self

    def images(self) -> list[str]:
        """Return the images as they were sent."""
        if self.messages is not None:
            return [part.image_url.url for message in self.messages for part in message.content]
        given: Iterable[_Image] = [self.input] if isinstance(self.input, str) else self.input or ()
        return [_text(item) for item in given]


def parse(body: bytes, content_type: bytes, *, bounds: Bounds) -> Request[EmbedOptions]:
    """Parse and check a body.

    Raises:
        Problem: 400, 413 or 415, or 422 for text that is not an image.
    """
    if media_type(content_type) != "application/json":
        raise Problem("unsupported-media-type", "the body must be application/json")
    try:
        document = json_object(body, "the body", bounds)
        images = document.get("input")
        if isinstance(images, list) and len(images) > bounds.max_items:
            raise too_many("input", str(len(images)), bounds)
        given = EmbeddingsRequest.model_validate(document)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_url=False)[0]["loc"][:1]))
        expected = {"input": _INPUT, "messages": _MESSAGES}.get(place)
        detail = expected or describe(error, [*EmbeddingsRequest.model_fields])
        raise Problem("malformed-request", detail) from None
    except ValueError as error:
        raise Problem("malformed-request", str(error)) from None
    name, robust = given.model.removesuffix(ROBUST), given.model.endswith(ROBUST)
    return Request(
        EmbedOptions(
            model=name,
            robust=robust,
            normalize=given.normalize,
            encoding_format=given.encoding_format,
            dimensions=given.dimensions,
        ),
        files=[image_file(text, index) for index, text in enumerate(given.images())],
    )


def encode(result: Result, media_type: str) -> bytes:
    """Return the response body of ``/v1/embeddings``."""
    embeddings = json_vectors(result.finite("embeddings"), result.encoding)
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": embedding}
        for index, embedding in enumerate(embeddings)
    ]
    if "uncertainty" in result.arrays:
        for item, uncertainty in zip(data, result.finite("uncertainty").tolist(), strict=True):
            item["uncertainty"] = uncertainty
    # Images have no tokens, but clients require the numbers.
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    model = result.facts["model"] + (ROBUST if result.robust else "")
    facts = {"object": "list", "data": data, "model": model, "usage": usage}
    more = {name: result.facts[name] for name in ("revision", "request_id")}
    return pydantic_core.to_json({**facts, **more})


def model_object(name: str) -> dict[str, Any]:
    """Return the response of ``/v1/models/NAME``."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "repzoo"}


def list_models(names: Iterable[str]) -> dict[str, Any]:
    """Return the response of ``/v1/models``."""
    return {"object": "list", "data": [model_object(name) for name in names]}


_INPUT = (
    "input: expected an image (base64 or a data: URL), or a non-empty list of images as text, "
    '{"image": ...} or {"type": "image_url", "image_url": {"url": ...}}'
)

_MESSAGES = (
    'messages: expected one message, {"role": "user", "content": [PART]}, with one image, which is '
    '{"type": "image_url", "image_url": {"url": ...}}'
)

_CODES = {"unknown-model": "model_not_found", "unauthorized": "invalid_api_key"}


def error_member(problem: Problem) -> dict[str, Any]:
    """Return the member of an error's body that OpenAI's clients read."""
    match problem.status:
        case 401:
            kind = "authentication_error"
        case 429:
            kind = "rate_limit_error"
        case status if status >= 500:
            kind = "server_error"
        case _:
            kind = "invalid_request_error"
    code = _CODES.get(problem.kind, problem.kind.replace("-", "_"))
    return {"message": problem.detail, "type": kind, "param": None, "code": code}


def _text(item: _Image) -> str:
    if isinstance(item, str):
        return item
    return item.image if isinstance(item, ImageObject) else item.image_url.url
