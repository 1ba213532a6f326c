"""Every error that a client can get: one exception, sent as ``application/problem+json``.

The ``type`` of a problem is stable: ``urn:repzoo:problem:`` and one of `KINDS`. Clients should
depend on it. docs/reference/http-errors.md lists them.

Additional members (RFC 9457): every problem has ``request_id``; ``index`` (of an image) and
``limit`` are present if they apply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from repzoo.errors import (
    ImageTooLarge,
    InvalidImage,
    InvalidInput,
    RepzooError,
    UnknownTask,
    UnsupportedOperation,
)

__all__ = ["KINDS", "PROBLEM_TYPE", "RETRY_AFTER", "Kind", "Problem"]

PROBLEM_TYPE = "application/problem+json"

#: Clients that are refused because of load, or at startup or shutdown, may retry after a second.
RETRY_AFTER = (b"retry-after", b"1")

_MAX_DETAIL = 400


class Kind(NamedTuple):
    """A kind of problem: its HTTP status, its title, what it means, and what the caller can do."""

    status: int
    title: str
    meaning: str
    action: str


#: Every kind of problem, by the last part of its ``type``.
KINDS: Mapping[str, Kind] = {
    "malformed-request": Kind(
        400,
        "The request is malformed",
        "The HTTP request, its body or a field is invalid. `detail` names the field, and says what "
        "was expected.",
        "Correct the request.",
    ),
    "unauthorized": Kind(
        401,
        "The request needs an API key",
        "The server requires an API key, and the request has none or one that it does not know.",
        "Send `Authorization: Bearer KEY`, with a key of `zoo keys add`.",
    ),
    "not-found": Kind(
        404,
        "The path does not exist",
        "There is no such path, or no such image in the index.",
        "Compare the path with `/openapi.json`.",
    ),
    "unknown-model": Kind(
        404,
        "The model is not served here",
        "The server does not serve a model of this name.",
        "Choose one of `/models`, or start the server with `--models`.",
    ),
    "unknown-task": Kind(
        404,
        "The model does not have this probe",
        "The model has no probe of this task and kind. `detail` lists those that it has.",
        "Choose one of them.",
    ),
    "method-not-allowed": Kind(
        405,
        "The path does not support the method",
        "The path exists, but not for this HTTP method.",
        "Use a method of the header `Allow`.",
    ),
    "not-acceptable": Kind(
        406,
        "No response format matches the Accept header",
        "The server has none of the formats that `Accept` asks for.",
        "Accept `application/json` or `application/x-safetensors`.",
    ),
    "request-timeout": Kind(
        408,
        "The request head was not sent in time",
        "The request line and headers did not arrive within `REPZOO_SERVE_HEAD_SECONDS`.",
        "Send the request again.",
    ),
    "unsupported-operation": Kind(
        409,
        "The model does not support the operation",
        "The model has no posterior, content posterior, decoder, model of several views or index. "
        "Or its index does not have the metric.",
        "Choose a model with the operation among its `capabilities` in `/models`, and one of the "
        "`metrics` of its `index`.",
    ),
    "too-many-bytes": Kind(
        413,
        "The request is too large",
        "The body has more bytes than `limit`.",
        "Send the images in several requests, or smaller files. The Python client does so.",
    ),
    "too-many-images": Kind(
        413,
        "The request has too many images",
        "The request has, or asks for, more images or latents than `limit`.",
        "Send several requests. The Python client does so.",
    ),
    "too-many-pixels": Kind(
        413,
        "An image is too large",
        "Image `index` has more pixels than `limit`; see [Photos](../serving.md#photos).",
        "Scale it down, or raise `REPZOO_SERVE_MAX_PIXELS`. The Python client scales it.",
    ),
    "unsupported-media-type": Kind(
        415,
        "The format of the request is not supported",
        "The body has a `Content-Type` or `Content-Encoding` that the path does not take.",
        "Send JSON, a form or safetensors, uncompressed.",
    ),
    "invalid-image": Kind(
        422,
        "An image cannot be decoded",
        "Image `index` is damaged, is not base64, or has none of the [formats]"
        "(../serving.md#image-files).",
        "Leave it out or replace it. The other images of the request are not at fault.",
    ),
    "invalid-latents": Kind(
        422,
        "Latents cannot be decoded to an image",
        "Latents `index` are so large that the decoder overflows.",
        "Send latents like those that `/embed` or `/generate` return.",
    ),
    "overloaded": Kind(
        429,
        "The server is overloaded",
        "Too many images or request bodies wait already.",
        "Send the request again after `Retry-After` seconds. The Python client does so.",
    ),
    "rate-limited": Kind(
        429,
        "The API key exceeded its rate",
        "The API key sent more requests per second than it may.",
        "Send the request again after `Retry-After` seconds. The Python client does so.",
    ),
    "head-too-large": Kind(
        431,
        "The request head is too large",
        "The request line and headers have more bytes than `limit`.",
        "Send fewer or shorter headers.",
    ),
    "internal": Kind(
        500,
        "An error occurred in the server",
        "The server has a fault.",
        "Look for the `request_id` in its log, and report the fault.",
    ),
    "unavailable": Kind(
        503,
        "The server is not ready",
        "The server is starting or shutting down, or a model hangs.",
        "Send the request again after `Retry-After` seconds. The Python client does so.",
    ),
    "deadline-exceeded": Kind(
        504,
        "The request was not answered in time",
        "The request was not received and answered within `REPZOO_SERVE_DEADLINE_SECONDS`. The "
        "server dropped its work.",
        "Send fewer images per request, or try again when the server is less busy.",
    ),
}


class Problem(Exception):
    """An error for the client.

    Args:
        kind: The last part of its ``type``.
        detail: What went wrong, in one sentence.
        headers: Additional headers of the response.
        members: Additional members of the document.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        **members: int | float | str,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title, *_ = KINDS[kind]
        # It may quote the request, which may be of any length.
        self.detail = detail if len(detail) <= _MAX_DETAIL else f"{detail[:_MAX_DETAIL]}..."
        self.headers = headers
        self.members = members

    def body(self, request_id: str, **members: Any) -> bytes:
        """Return the document as UTF-8 JSON, with additional ``members``."""
        document = {
            "type": f"urn:repzoo:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **self.members,
            **members,
        }
        return json.dumps(document).encode()

    @classmethod
    def of(cls, error: RepzooError) -> Problem:
        """Return the problem for an error raised by the model's checks."""
        match error:
            case ImageTooLarge():
                limit: dict[str, Any] = {} if error.limit is None else {"limit": error.limit}
                return cls("too-many-pixels", str(error), index=error.index, **limit)
            case InvalidImage():
                return cls("invalid-image", str(error), index=error.index)
            case UnsupportedOperation():
                return cls("unsupported-operation", str(error))
            case UnknownTask():
                return cls("unknown-task", str(error))
            case InvalidInput():
                return cls("malformed-request", str(error))
        raise error
