"""All errors that the client raises on purpose.

    ClientError
    ├── ClientClosed              (RuntimeError)     the client was closed before or during the call
    ├── ServerUnreachable         (ConnectionError)  no server answers, or the connection broke
    ├── RequestTimedOut           (TimeoutError)     no answer within the timeout or the deadline
    ├── UnexpectedAnswer          (ValueError)       the answer does not follow the API
    └── APIError                                     the server refused or failed, and says why
        ├── InvalidRequest        (ValueError)       400, 405, 406, 415
        │   ├── InvalidImage                         422: image ``index`` cannot be decoded
        │   └── RequestTooLarge                      413: too many bytes, images or pixels
        ├── AccessDenied          (PermissionError)  401, 403
        ├── NotFound              (LookupError)      404
        │   ├── ModelNotFound                        the server does not serve this model
        │   └── UnknownTask                          the model does not have this probe
        ├── UnsupportedOperation  (TypeError)        409: no posterior, no decoder, ...
        ├── Overloaded                               429: busy, or the key's rate is used up
        └── ServerError                              5xx
            ├── Unavailable                          503: starting or shutting down
            └── DeadlineExceeded  (TimeoutError)     504: the server gave up

Where a builtin exception matches, the error inherits it too, so ordinary ``except ValueError``
works.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "APIError",
    "AccessDenied",
    "ClientClosed",
    "ClientError",
    "DeadlineExceeded",
    "InvalidImage",
    "InvalidRequest",
    "ModelNotFound",
    "NotFound",
    "Overloaded",
    "RequestTimedOut",
    "RequestTooLarge",
    "ServerError",
    "ServerUnreachable",
    "Unavailable",
    "UnexpectedAnswer",
    "UnknownTask",
    "UnsupportedOperation",
]


class ClientError(Exception):
    """Base class of all errors that the client raises on purpose."""


class ClientClosed(ClientError, RuntimeError):
    """The client was closed before or during the call."""


class ServerUnreachable(ClientError, ConnectionError):
    """No server answers at the URL, or the connection broke before the answer was complete."""


class RequestTimedOut(ClientError, TimeoutError):
    """The server did not answer within the client's timeout or the call's deadline."""


class UnexpectedAnswer(ClientError, ValueError):
    """The answer does not follow this API: the URL may belong to another kind of server."""


class APIError(ClientError):
    """The server refused a request or failed, and said why.

    Attributes:
        status: The HTTP status.
        type: The stable name of the problem, for example "urn:repzoo:problem:invalid-image".
        detail: What was wrong, in one sentence.
        request_id: The ID of the request in the server's log, or None if the server sent none.
        index: The position of the faulty image among the images of the call, or None if the error
            is not about one image.
        retry_after: The number of seconds after which to try again, or None if the server did not
            say.
    """

    def __init__(
        self,
        status: int,
        problem_type: str,
        detail: str,
        *,
        request_id: str | None = None,
        index: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{detail} (HTTP {status})")
        self.status = status
        self.type = problem_type
        self.detail = detail
        self.request_id = request_id
        self.index = index
        self.retry_after = retry_after

    def __reduce__(self) -> Any:
        # An error that cannot be unpickled would leave a multiprocessing.Pool waiting forever.
        return type(self), (self.status, self.type, self.detail), self.__dict__


class InvalidRequest(APIError, ValueError):
    """The operation does not accept this request."""


class InvalidImage(InvalidRequest):
    """An image cannot be decoded; ``index`` is its position among the images of the call."""


class RequestTooLarge(InvalidRequest):
    """The request, or one of its images, exceeds the server's limits (see `Model.limits`)."""


class AccessDenied(APIError, PermissionError):
    """The API key is missing or not accepted."""


class NotFound(APIError, LookupError):
    """The path does not exist."""


class ModelNotFound(NotFound):
    """The server does not serve this model."""


class UnknownTask(NotFound):
    """The model has no probe for this task and kind."""


class UnsupportedOperation(APIError, TypeError):
    """The model lacks what the operation needs, for example a posterior or a decoder."""


class Overloaded(APIError):
    """The server is too busy, or the API key has used up its rate (see ``type``).

    ``retry_after`` says when to try again.
    """


class ServerError(APIError):
    """The server failed; its log has the details under ``request_id``."""


class Unavailable(ServerError):
    """The server is starting or shutting down."""


class DeadlineExceeded(ServerError, TimeoutError):
    """The server gave up on the request, because it had no result within its own deadline."""
