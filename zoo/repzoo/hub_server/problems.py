"""Errors in the form that huggingface_hub turns into its exceptions."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Literal

from starlette.responses import JSONResponse

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

Code = Literal["RepoNotFound", "RevisionNotFound", "EntryNotFound"]


class Problem(Exception):
    """A request that is answered by an error.

    Args:
        status: of HTTP.
        message: what was wrong and what to do, for whoever sent it.
        code: what the client's exception depends on: RepositoryNotFoundError, RevisionNotFoundError
            or EntryNotFoundError; None: the status alone.
        headers: further ones of the answer.
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


def as_problem(error: RepzooError) -> Problem:
    """What an error of the store means to whoever sent the request."""
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
        case HubError(__cause__=OSError(errno=errno.ENOSPC | errno.EDQUOT)):
            _log.error("%s", message)
            return Problem(507, "the hub's disk is full")
        case _:
            # What is wrong with the disk is for whoever keeps the hub.
            _log.error("%s", message)
            return Problem(500, "the hub cannot read or write its store; its log says why")


def problem_response(problem: Problem) -> JSONResponse:
    """The answer for a program."""
    # A header is one line of ASCII.
    line = " ".join(problem.message.split()).encode("ascii", "backslashreplace").decode()
    headers = {"X-Error-Message": line[:1000], **problem.headers}
    if problem.code is not None:
        headers["X-Error-Code"] = problem.code
    return JSONResponse({"error": problem.message}, problem.status, headers)
