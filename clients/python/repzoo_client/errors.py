"""Every error that the client raises on purpose.

    ClientError
    ├── ServerUnreachable         (ConnectionError)  nobody answers, or the connection broke
    ├── RequestTimedOut           (TimeoutError)     no answer within the client's timeout
    ├── UnexpectedAnswer          (ValueError)       an answer that is not the API's
    └── APIError                                     the server refused or failed, and says why
        ├── InvalidRequest        (ValueError)       400, 405, 406, 415
        │   ├── InvalidImage                         422: image ``index`` is not an image
        │   └── RequestTooLarge                      413: too many bytes, images or pixels
        ├── AccessDenied          (PermissionError)  401, 403
        ├── NotFound              (LookupError)      404
        │   ├── ModelNotFound                        no such model is served
        │   └── UnknownTask                          the model has no such probe
        ├── UnsupportedOperation  (TypeError)        409: no posterior, no decoder, ...
        ├── Overloaded                               429: too much to do, or the rate used up
        └── ServerError                              5xx
            ├── Unavailable                          503: starting, draining
            └── DeadlineExceeded  (TimeoutError)     504: the server gave up

Each also is the builtin error that fits it, so ordinary ``except ValueError`` works.
"""

from __future__ import annotations

__all__ = [
    "APIError",
    "AccessDenied",
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
    """Base of all errors that the client raises on purpose."""


class ServerUnreachable(ClientError, ConnectionError):
    """Nobody answers at the server's URL, or the connection broke before the answer was whole."""


class RequestTimedOut(ClientError, TimeoutError):
    """The server did not answer within the client's timeout."""


class UnexpectedAnswer(ClientError, ValueError):
    """Something answered that does not speak this API."""


class APIError(ClientError):
    """The server refused a request or failed, and said why.

    Attributes:
        status: the HTTP status.
        type: the stable name of the problem, for example "urn:repzoo:problem:invalid-image".
        detail: what was wrong, in a sentence.
        request_id: what the server's log calls the request; None if it did not say.
        index: the place of the image at fault among those given to the call; None if it is not
            about one image.
        retry_after: seconds after which to try again; None if the server did not say.
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


class InvalidRequest(APIError, ValueError):
    """The request is not what the operation takes."""


class InvalidImage(InvalidRequest):
    """One image is not an image; ``index`` is its place among those given to the call."""


class RequestTooLarge(InvalidRequest):
    """The request, or an image of it, is beyond the server's limits: see `Model.limits`."""


class AccessDenied(APIError, PermissionError):
    """The API key is missing or not accepted."""


class NotFound(APIError, LookupError):
    """There is nothing at the path that was asked."""


class ModelNotFound(NotFound):
    """The server does not serve that model."""


class UnknownTask(NotFound):
    """The model has no probe for that task and kind."""


class UnsupportedOperation(APIError, TypeError):
    """The model lacks what the operation needs, for example a posterior or a decoder."""


class Overloaded(APIError):
    """The server has too much to do, or the key has used up its rate (see ``type``).

    ``retry_after`` says when to come back.
    """


class ServerError(APIError):
    """The server failed; its log says more under ``request_id``."""


class Unavailable(ServerError):
    """The server is starting or going down."""


class DeadlineExceeded(ServerError, TimeoutError):
    """The server gave up on the request, having had no answer within its deadline."""
