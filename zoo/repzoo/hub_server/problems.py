"""Errors in the form that huggingface_hub turns into its exceptions."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from repzoo.errors import (
    Conflict,
    EntryNotFound,
    HubError,
    IntegrityError,
    InvalidInput,
    ModelNotFound,
    RepzooError,
    UploadTooLarge,
)

__all__ = ["Problem", "as_problem", "problem_response"]

_log = logging.getLogger("repzoo.hub_server")

_LINGER_BYTES = 2**24
_LINGER_SECONDS = 2.0

Code = Literal["RepoNotFound", "RevisionNotFound", "EntryNotFound"]


class Problem(Exception):
    """An error to respond with.

    Args:
        status: The HTTP status.
        message: What is wrong and what to do, for the user of the client.
        code: Selects the client's exception, such as RepositoryNotFoundError; None leaves it to the
            status.
        headers: Additional headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: Code | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


def as_problem(error: RepzooError | OSError) -> Problem:
    """Return the problem to report for an error of the store."""
    message = str(error)
    match error:
        case EntryNotFound():
            return Problem(404, message, "EntryNotFound")
        case ModelNotFound():
            return Problem(404, message, "RevisionNotFound")
        case UploadTooLarge():
            return Problem(413, message)
        case InvalidInput() | IntegrityError():
            return Problem(400, message)
        case Conflict():
            return Problem(409, message)
        case (
            OSError(errno=errno.ENOSPC | errno.EDQUOT)
            | HubError(__cause__=OSError(errno=errno.ENOSPC | errno.EDQUOT))
        ):
            _log.error("%s", message)
            return Problem(507, "the hub's disk is full")
        case _:
            # Details of the disk are for the administrator only.
            _log.error("%s", message)
            return Problem(500, "the hub cannot read or write its store; see its log")


def problem_response(problem: Problem, *, unread: bool = False) -> JSONResponse:
    """Return the JSON response for a problem.

    Args:
        problem: What is wrong.
        unread: Whether the request is still arriving. The connection is then closed, but only
            after reading on for a moment, because a TCP reset could overtake the response.
    """
    # A header is one line of printable ASCII.
    shown = "".join(each if each.isprintable() else "?" for each in problem.message)
    line = shown.encode("ascii", "backslashreplace").decode()
    headers = {"X-Error-Message": line[:1000], **problem.headers}
    if problem.code is not None:
        headers["X-Error-Code"] = problem.code
    if unread:
        headers["Connection"] = "close"
    kind = _ClosingResponse if unread else JSONResponse
    return kind({"error": problem.message}, problem.status, headers)


class _ClosingResponse(JSONResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_open(message: Message) -> None:
            await send({**message, "more_body": True} if "body" in message else message)

        await super().__call__(scope, receive, send_open)
        left = _LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while left > 0:
                    message = await receive()
                    if not message.get("more_body"):
                        break
                    left -= len(message["body"])
        await send({"type": "http.response.body", "body": b"", "more_body": False})
