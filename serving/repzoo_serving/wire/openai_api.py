"""``POST /v1/embeddings`` and ``GET /v1/models``, as clients of OpenAI's API know them, for images.

OpenAI's own API embeds text only. These are the ways in which servers and clients of the field put
images into it, and all of them are understood; an image is a ``data:`` URL or plain base64:

    ==========================================================  ================================
    request                                                     as sent to, or by
    ==========================================================  ================================
    ``"input": IMAGE`` or ``[IMAGE, ...]``                      infinity (with ``"modality":
                                                                "image"``), LiteLLM
    ``"input": [{"image": IMAGE}, ...]``                        Jina
    ``"input": [{"type": "image_url",                           content parts, as below
    "image_url": {"url": IMAGE}}, ...]``
    ``"messages": [{"role": "user", "content": [PART]}]``       vLLM; one image, one embedding
    ==========================================================  ================================

URLs of other schemes are refused: this server fetches nothing. So are texts and tokens.
``encoding_format`` is ``float`` or ``base64`` (what OpenAI's client asks for by default),
``dimensions`` the model's own or nothing, ``user`` means nothing. Embeddings have length 1, as
those of OpenAI, infinity and vLLM have, unless ``"normalize": false`` is sent.

An error is a problem document like any other, with OpenAI's ``error`` object as one more member.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeAlias

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.json_schema import SkipJsonSchema

from repzoo_serving.http.problems import Problem
from repzoo_serving.wire import bodies as requests
from repzoo_serving.wire.answers import Answer, vectors

__all__ = ["EmbeddingsRequest", "document", "error_member", "listing", "parse"]

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


def _no_default(schema: dict[str, Any]) -> None:
    del schema["default"]


#: None by default, but not to be sent as null.
_ABSENT: Any = Field(None, json_schema_extra=_no_default)


#: An image as text.
_Text: TypeAlias = Annotated[
    str,
    Field(
        description="A data: URL of base64, or plain base64, of an image file.",
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
    """The body."""

    model_config = ConfigDict(
        **_STRICT,
        json_schema_extra={"oneOf": [{"required": ["input"]}, {"required": ["messages"]}]},
    )

    model: str
    input: _Text | Annotated[list[_Image], Field(min_length=1)] | SkipJsonSchema[None] = _ABSENT
    messages: Annotated[list[Message], Field(min_length=1, max_length=1)] | SkipJsonSchema[None] = (
        _ABSENT
    )
    modality: Literal["image"] = "image"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    normalize: bool = True
    user: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> EmbeddingsRequest:
        sent = [name for name in ("input", "messages") if name in self.model_fields_set]
        if len(sent) != 1 or getattr(self, sent[0]) is None:
            raise ValueError("send either input or messages")
        return self

    def images(self) -> list[str]:
        """The images as they were sent."""
        if self.messages is not None:
            return [part.image_url.url for message in self.messages for part in message.content]
        given: Iterable[_Image] = [self.input] if isinstance(self.input, str) else self.input or ()
        return [_text(item) for item in given]


def parse(
    body: bytes, content_type: bytes, *, max_items: int
) -> requests.Request[requests.EmbedOptions]:
    """Check one body.

    Raises:
        Problem: 400, 413, 415, or 422 for what is no image.
    """
    if requests.media_type(content_type) != "application/json":
        raise Problem("unsupported-media-type", "the body must be application/json")
    try:
        given = EmbeddingsRequest.model_validate(requests.json_object(body, "the body"))
    except ValidationError as error:
        raise Problem("malformed-request", requests.sentence(error)) from None
    except ValueError as error:
        raise Problem("malformed-request", str(error)) from None
    images = given.images()
    if len(images) > max_items:
        raise requests.too_many("input", str(len(images)), max_items)
    return requests.Request(
        requests.EmbedOptions(
            model=given.model,
            normalize=given.normalize,
            encoding_format=given.encoding_format,
            dimensions=given.dimensions,
        ),
        files=[_file(text, index) for index, text in enumerate(images)],
    )


def document(answer: Answer, media_type: str) -> bytes:
    """The answer to ``/v1/embeddings``."""
    embeddings = vectors(answer.finite("embeddings"), answer.encoding)
    data = [
        {"object": "embedding", "index": index, "embedding": embedding}
        for index, embedding in enumerate(embeddings)
    ]
    # No token has been counted; clients want the numbers nevertheless.
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    facts = {"object": "list", "data": data, "model": answer.facts["model"], "usage": usage}
    more = {name: answer.facts[name] for name in ("revision", "request_id")}
    return pydantic_core.to_json({**facts, **more})


def listing(names: Iterable[str]) -> bytes:
    """The answer to ``/v1/models``."""
    data = [{"id": n, "object": "model", "created": 0, "owned_by": "repzoo"} for n in names]
    return json.dumps({"object": "list", "data": data}).encode()


_CODES = {"unknown-model": "model_not_found", "unauthorized": "invalid_api_key"}


def error_member(problem: Problem) -> dict[str, Any]:
    """What OpenAI's clients look for in the body of an error."""
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


def _file(text: str, index: int) -> bytes:
    scheme, colon, rest = text[:4096].partition(":")
    if colon and scheme.lower() == "data":
        head, comma, _ = rest.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise _no_image(index, "a data: URL must be of base64: data:image/png;base64,...")
        text = text[len(scheme) + len(head) + 2 :]
    elif colon:
        raise _no_image(index, "URLs are not fetched; send a data: URL, or base64 of the file")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one; so is text that is not ASCII
        raise _no_image(
            index, f"neither a data: URL nor base64 of a file ({error}); texts cannot be embedded"
        ) from None


def _no_image(index: int, detail: str) -> Problem:
    return Problem("invalid-image", f"image {index}: {detail}", index=index)
