"""Who sent a request, and what they may do.

| server | reads | writes |
| --- | --- | --- |
| without options | anyone | nobody |
| ``--tokens FILE`` | anyone; private repositories: any token | tokens made with ``--write`` |
| ``--tokens FILE --private`` | any token | tokens made with ``--write`` |
| ``--open``, only on a loopback address | anyone | anyone |
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

# With these words the client does not report a 401 as a missing repository.
_INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Visitor(NamedTuple):
    """The sender of a request."""

    #: The token's name, or None without a token.
    name: str | None
    #: What the token allows; None allows only what everyone may see.
    role: Role | None


@dataclass(frozen=True)
class Access:
    """The access rules of one server."""

    tokens: SecretFile | None
    #: Whether reading needs no token.
    public: bool
    #: Whether anyone may do anything.
    open: bool

    def visitor(self, request: Request) -> Visitor:
        """Return the sender of a request.

        Raises:
            Problem: If the token is not valid, or is missing although reading needs one.
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
                "this hub is private: reading needs a token",
                headers={**_INVALID, "WWW-Authenticate": 'Basic realm="repzoo hub"'},
            )
        if self.tokens is None:
            # A token for another hub, from the environment. This server has no tokens.
            return Visitor(None, None)
        token = self.tokens.find(secret)
        if token is None:
            raise Problem(401, "the token is not valid on this hub", headers=_INVALID)
        return Visitor(token.name, token.role or "read")

    def require_write(self, request: Request, visitor: Visitor) -> None:
        """Check that a visitor may write.

        Raises:
            Problem: If they may not.
        """
        # A page of another site could make a browser send the password that it stores for this hub.
        if "origin" in request.headers:
            raise Problem(403, "web pages cannot write to this hub")
        if visitor.role == "write":
            return
        if self.tokens is None:
            raise Problem(403, "this hub is read-only: it was started without --tokens or --open")
        if visitor.role is None:
            raise Problem(
                401, "writing to this hub needs a token; see zoo hub token", headers=_INVALID
            )
        raise Problem(
            403, f"the token {visitor.name} may only read; writing needs a token with --write"
        )

    def _check_origin(self, request: Request) -> None:
        # A foreign domain may resolve to 127.0.0.1, and its pages could then reach this server.
        if request.url.hostname not in _LOOPBACK:
            raise Problem(403, "an open hub only accepts requests to localhost")


def _secret(request: Request) -> str | None:
    """Return the token of a program or the password of a browser."""
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
