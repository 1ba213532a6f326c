"""Every error that leaves the server: one exception, sent as ``application/problem+json``.

The ``type`` of a problem is stable and is what a client should look at:

    ======  ====================================  ============================================
    status  type (after ``urn:repzoo:problem:``)  meaning
    ======  ====================================  ============================================
    400     malformed-request                     the body is not what the operation takes
    401     unauthorized                          the key is missing or not known
    404     not-found, unknown-model,             no such path, model or probe
            unknown-task
    405     method-not-allowed                    the path is there, the method is not
    406     not-acceptable                        no format of the answer fits ``Accept``
    409     unsupported-operation                 the model has no posterior or no decoder
    413     too-many-bytes, too-many-images,      a limit, see ``/models``
            too-many-pixels
    415     unsupported-media-type                the body's format is not known
    422     invalid-image                         image ``index`` of the request is none
    429     overloaded                            the queue is full; ``Retry-After`` seconds
            rate-limited                          the key has used up its rate; as above
    500     internal                              a fault of the server; its log says more
    503     unavailable                           starting, or going down; ``Retry-After``
    504     deadline-exceeded                     not answered in time; the work is dropped
    ======  ====================================  ============================================

RFC 9457 allows more members: ``request_id`` is in every problem, ``index`` (of an image) and
``limit`` where they apply.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from PIL.Image import DecompressionBombError
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

#: A caller who is refused for load, or too early or late, is asked to come back after a second.
RETRY_AFTER = (b"retry-after", b"1")

_MAX_DETAIL = 400

_TITLES = {
    "malformed-request": (400, "The request is malformed"),
    "unauthorized": (401, "The request needs a key"),
    "not-found": (404, "There is nothing at this path"),
    "unknown-model": (404, "No such model is served here"),
    "unknown-task": (404, "The model has no such probe"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "not-acceptable": (406, "The answer has no such format"),
    "unsupported-operation": (409, "The model cannot do this"),
    "too-many-bytes": (413, "The request is too large"),
    "too-many-images": (413, "The request has too many images"),
    "too-many-pixels": (413, "An image is too large"),
    "unsupported-media-type": (415, "The format of the request is not known"),
    "invalid-image": (422, "An image of the request is not an image"),
    "overloaded": (429, "The server has too much to do"),
    "rate-limited": (429, "The key is used too often"),
    "internal": (500, "The server failed"),
    "unavailable": (503, "The server is not ready"),
    "deadline-exceeded": (504, "The request was not answered in time"),
}


def kinds() -> dict[str, int]:
    """The status of every kind of problem."""
    return {kind: status for kind, (status, _) in _TITLES.items()}


class Problem(Exception):
    """An error for the caller. ``kind`` is the last part of its ``type``, ``detail`` one sentence.

    Keyword arguments become members of the document; ``headers`` go beside it.
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
        # It quotes what was sent, which may be of any length.
        self.detail = detail if len(detail) <= _MAX_DETAIL else f"{detail[:_MAX_DETAIL]}..."
        self.headers = headers
        self.members = members

    def body(self, request_id: str, **members: Any) -> bytes:
        """The document, as UTF-8 JSON, with ``members`` besides its own."""
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
        """The problem for an error that the model's own checks raised."""
        match error:
            # Pillow has a limit of its own, far beyond any of ours, and comes first.
            case InvalidImage() if isinstance(error.__cause__, DecompressionBombError):
                return cls("too-many-pixels", str(error), index=error.index)
            case ImageTooLarge():
                return cls("too-many-pixels", str(error), index=error.index)
            case InvalidImage():
                return cls("invalid-image", str(error), index=error.index)
            case UnsupportedOperation():
                return cls("unsupported-operation", str(error))
            case UnknownTask():
                return cls("unknown-task", str(error))
            case InvalidInput():
                return cls("malformed-request", str(error))
        raise error
