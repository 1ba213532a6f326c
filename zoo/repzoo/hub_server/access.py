"""Who sent a request, and what they may do.

| server | reads | writes |
| --- | --- | --- |
| as it is | anyone | nobody |
| ``--tokens FILE`` | anyone; private repositories: any token | tokens made with ``--write`` |
| ``--tokens FILE --private`` | any token | tokens made with ``--write`` |
| ``--open``, at a loopback address only | anyone | anyone |
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request

from repzoo.hub_server.problems import Problem
from repzoo.secrets_file import Role, SecretFile

__all__ = ["Access", "Visitor"]

# With these words the client does not take a 401 for a repository that is not there.
_INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Visitor(NamedTuple):
    """Who sent a request."""

    #: the token's name; None: they sent none.
    name: str | None
    #: what the token is for; None: they may see what everyone may.
    role: Role | None


@dataclass(frozen=True)
class Access:
    """The rules of one server."""

    tokens: SecretFile | None
    #: whether one may read without a token.
    public: bool
    #: whether anyone may do anything.
    open: bool

    def visitor(self, request: Request) -> Visitor:
        """Who sent a request.

        Raises:
            Problem: if they sent a token that is none, or none where one is needed.
        """
        if self.open:
            self._check_origin(request)
            return Visitor(None, "write")
        secret = _secret(request)
        if secret is None:
            if self.public:
                return Visitor(None, None)
            raise Problem(
                401,
                "this hub shows nothing without a token",
                headers={**_INVALID, "WWW-Authenticate": 'Basic realm="repzoo hub"'},
            )
        if self.tokens is None:
            # One for another hub, from the environment; here there is nothing to show it for.
            return Visitor(None, None)
        token = self.tokens.find(secret)
        if token is None:
            raise Problem(401, "the token is not one of this hub's", headers=_INVALID)
        return Visitor(token.name, token.role or "read")

    def require_write(self, request: Request, visitor: Visitor) -> None:
        """Let those pass who may write.

        Raises:
            Problem: otherwise.
        """
        # A page elsewhere could have a browser send the password that it knows for this one.
        if "origin" in request.headers:
            raise Problem(403, "pages cannot write to this hub")
        if visitor.role == "write":
            return
        if self.tokens is None:
            raise Problem(403, "this hub takes nothing: it was started without --tokens or --open")
        if visitor.role is None:
            raise Problem(401, "writing to this hub needs a token", headers=_INVALID)
        raise Problem(403, f"the token {visitor.name} may only read")

    def _check_origin(self, request: Request) -> None:
        # Elsewhere a name may lead to 127.0.0.1, so that a page of that name could come here.
        if request.url.hostname not in _LOOPBACK:
            raise Problem(403, "an open hub answers to localhost only")


def _secret(request: Request) -> str | None:
    """The token of a program, or the password of a browser."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    value = value.strip()
    if kind.lower() == "bearer" and value:
        return value
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return None
