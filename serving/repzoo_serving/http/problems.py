"""Every error that a client can get: one exception, sent as ``application/problem+json``.

The ``type`` of a problem is stable; clients should depend on it:

    ======  ====================================  ============================================
    status  type (after ``urn:repzoo:problem:``)  meaning
    ======  ====================================  ============================================
    400     malformed-request                     the request or its body is invalid
    401     unauthorized                          the API key is missing or unknown
    404     not-found, unknown-model,             the path, model or probe does not exist
            unknown-task
    405     method-not-allowed                    the path does not support the method
    406     not-acceptable                        no response format matches ``Accept``
    408     request-timeout                       the request head was not sent in time
    409     unsupported-operation                 the model has no posterior or no decoder
    413     too-many-bytes, too-many-images,      a limit was exceeded, see ``/models``
            too-many-pixels
    415     unsupported-media-type                the body has an unknown format
    422     invalid-image                         image ``index`` cannot be decoded
            invalid-latents                       latents ``index`` cannot be decoded to an image
    429     overloaded                            the queue is full; ``Retry-After`` seconds
            rate-limited                          the key exceeded its rate; as above
    431     head-too-large                        the request line and headers are too long
    500     internal                              an error in the server; see its log
    503     unavailable                           starting or shutting down; ``Retry-After``
    504     deadline-exceeded                     not answered in time; the work was dropped
    ======  ====================================  ============================================

Additional members (RFC 9457): every problem has ``request_id``; ``index`` (of an image) and
``limit`` are present if they apply.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from repzoo.errors import (
    ImageTooLarge,
    InvalidImage,
    InvalidInput,
    RepzooError,
    UnknownTask,
    UnsupportedOperation,
)

__all__ = ["PROBLEM_TYPE", "RETRY_AFTER", "Problem", "kinds"]

PROBLEM_TYPE = "application/problem+json"

#: Clients that are refused because of load, or at startup or shutdown, may retry after a second.
RETRY_AFTER = (b"retry-after", b"1")

_MAX_DETAIL = 400

_TITLES = {
    "malformed-request": (400, "The request is malformed"),
    "unauthorized": (401, "The request needs an API key"),
    "not-found": (404, "The path does not exist"),
    "unknown-model": (404, "The model is not served here"),
    "unknown-task": (404, "The model does not have this probe"),
    "method-not-allowed": (405, "The path does not support the method"),
    "not-acceptable": (406, "No response format matches the Accept header"),
    "request-timeout": (408, "The request head was not sent in time"),
    "unsupported-operation": (409, "The model does not support the operation"),
    "too-many-bytes": (413, "The request is too large"),
    "too-many-images": (413, "The request has too many images"),
    "too-many-pixels": (413, "An image is too large"),
    "unsupported-media-type": (415, "The format of the request is not supported"),
    "invalid-image": (422, "An image cannot be decoded"),
    "invalid-latents": (422, "Latents cannot be decoded to an image"),
    "overloaded": (429, "The server is overloaded"),
    "rate-limited": (429, "The API key exceeded its rate"),
    "head-too-large": (431, "The request head is too large"),
    "internal": (500, "An error occurred in the server"),
    "unavailable": (503, "The server is not ready"),
    "deadline-exceeded": (504, "The request was not answered in time"),
}


def kinds() -> dict[str, int]:
    """Return the status of every kind of problem."""
    return {kind: status for kind, (status, _) in _TITLES.items()}


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
        self.status, self.title = _TITLES[kind]
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
                limit = {} if error.limit is None else {"limit": error.limit}
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
