"""What the routes of one server share, and how they find the repository that a request is about."""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.requests import Request

from repzoo.errors import HubError, ModelNotFound
from repzoo.hub_server.access import Access, Visitor
from repzoo.hub_server.library import Library
from repzoo.hub_server.problems import Problem
from repzoo.store.repository import Repository
from repzoo.store.store import Store

__all__ = [
    "Found",
    "Server",
    "find",
    "find_for_writing",
    "require_store",
    "server_of",
    "visitor_of",
]

ORG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Server:
    """One server."""

    library: Library
    access: Access
    #: what its repositories are under: their ids are ORG/NAME.
    org: str
    #: what the addresses for uploads are signed with; another one after each start.
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def visible(self, visitor: Visitor) -> list[str]:
        """The repositories that a visitor may see."""
        visible = []
        for name in self.library.names():
            # One that is damaged is not shown, but does not hide the others.
            with suppress(HubError, ModelNotFound):
                if self.sees(visitor, name):
                    visible.append(name)
        return visible

    def sees(self, visitor: Visitor, name: str) -> bool:
        """Whether a visitor may see a repository.

        Raises:
            ModelNotFound: if it is not there.
        """
        private = self.library.is_private(name)
        return visitor.role is not None or not private


@dataclass(frozen=True)
class Found:
    """The repository and, where one is named, the revision that a request is about."""

    server: Server
    visitor: Visitor
    name: str

    @property
    def id(self) -> str:
        """ORG/NAME."""
        return f"{self.server.org}/{self.name}"

    def resolve(self, revision: str | None) -> str:
        """The commit that a revision means.

        Raises:
            Problem: if there is none.
        """
        try:
            return self.server.library.resolve(self.name, revision)
        except ModelNotFound:
            message = f"{self.id} has no revision {revision!a}"
            raise Problem(404, message, "RevisionNotFound") from None


def server_of(request: Request) -> Server:
    """The server that a request came to."""
    server = request.app.state.server
    assert isinstance(server, Server)
    return server


def visitor_of(request: Request) -> Visitor:
    """Who sent a request, told to the log too."""
    visitor = server_of(request).access.visitor(request)
    request.state.visitor = visitor.name
    return visitor


def find(request: Request) -> Found:
    """The repository in a request's path, if its sender may see it.

    Raises:
        Problem: if there is none; that a private one is there is not given away.
    """
    server, visitor = server_of(request), visitor_of(request)
    org, name = request.path_params["org"], request.path_params["name"]
    try:
        visible = org == server.org and server.sees(visitor, name)
    except ModelNotFound:
        visible = False
    if visible:
        return Found(server, visitor, name)
    message = f"there is no repository {f'{org}/{name}'[:160]!a} on this hub"
    if org != server.org:
        message += f", which has those of {server.org} only"
    # The Hub's own way: without a token it may be that one is all that is missing.
    anonymous = visitor.role is None and server.access.tokens is not None
    raise Problem(401 if anonymous else 404, message, "RepoNotFound")


def find_for_writing(request: Request) -> tuple[Found, Repository]:
    """The same, if its sender may write to it.

    Raises:
        Problem: if they may not, or nobody may.
    """
    store = require_store(request)
    found = find(request)
    return found, store.repository(found.name)


def require_store(request: Request) -> Store:
    """What is written to.

    Raises:
        Problem: if the request's sender may not write.
    """
    server = server_of(request)
    server.access.require_write(request, visitor_of(request))
    if server.library.store is None:
        raise Problem(403, "this hub is a folder of packages, which is read-only")
    return server.library.store
