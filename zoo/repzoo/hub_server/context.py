"""The state of one server, and the repository that a request is about."""

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
from repzoo.store.repository import MAIN, Repository
from repzoo.store.store import Store

__all__ = [
    "RequestedRepository",
    "Server",
    "require_store",
    "requested_repository",
    "server_of",
    "visitor_of",
    "writable_repository",
]

ORG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Server:
    """One server."""

    library: Library
    access: Access
    #: The organisation of its repositories: their IDs are ORG/NAME.
    org: str
    #: The key that signs upload URLs; a new one after every start.
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def visible(self, visitor: Visitor) -> list[str]:
        """Return the repositories that a visitor may see."""
        visible = []
        for name in self.library.names():
            # A damaged repository is not shown, but must not hide the others.
            with suppress(HubError, ModelNotFound):
                if self.is_visible(visitor, name):
                    visible.append(name)
        return visible

    def is_visible(self, visitor: Visitor, name: str) -> bool:
        """Whether a visitor may see a repository.

        Raises:
            ModelNotFound: If it does not exist.
        """
        private = self.library.is_private(name)
        return visitor.role is not None or not private

    def check_org(self, org: str) -> None:
        """Check that an organisation is this server's.

        Raises:
            Problem: If it is not.
        """
        if org != self.org:
            message = (
                f"this hub has no organisation {org[:100]!a}, only {self.org}: {self.org}/NAME"
            )
            raise Problem(404, message, "RepoNotFound")


@dataclass(frozen=True)
class RequestedRepository:
    """The repository that a request is about."""

    server: Server
    visitor: Visitor
    name: str

    @property
    def id(self) -> str:
        """The repository's ID, ORG/NAME."""
        return f"{self.server.org}/{self.name}"

    def resolve(self, revision: str | None) -> str:
        """Return the commit that a revision means, in any form that the Hub's clients use.

        Raises:
            Problem: If there is no such revision.
        """
        library = self.server.library
        try:
            match (revision or MAIN).split("/"):
                case [name]:
                    return library.resolve(self.name, name)
                case ["refs", "heads", "main"]:
                    return library.resolve(self.name)
                case ["refs", "tags", name]:
                    return library.tags(self.name)[name]
        except (KeyError, ModelNotFound):
            pass
        reason = "; it has no pull requests" if (revision or "").startswith("refs/pr/") else ""
        message = f"{self.id} has no revision {revision!a}{reason}"
        raise Problem(404, message, "RevisionNotFound")


def server_of(request: Request) -> Server:
    """Return the server that received a request."""
    server = request.app.state.server
    assert isinstance(server, Server)
    return server


def visitor_of(request: Request) -> Visitor:
    """Return the sender of a request, and note the name for the access log."""
    visitor = server_of(request).access.visitor(request)
    request.state.visitor = visitor.name
    return visitor


def requested_repository(request: Request) -> RequestedRepository:
    """Return the repository in a request's path if its sender may see it.

    Raises:
        Problem: If it does not exist. A private one gives the same error.
    """
    server, visitor = server_of(request), visitor_of(request)
    org, name = request.path_params["org"], request.path_params["name"]
    server.check_org(org)
    with suppress(ModelNotFound):
        if server.is_visible(visitor, name):
            return RequestedRepository(server, visitor, name)
    message = f"there is no repository {f'{org}/{name}'[:160]!a} on this hub"
    # 401, as on the Hub: the repository may be visible with a token.
    anonymous = visitor.role is None and server.access.tokens is not None
    raise Problem(401 if anonymous else 404, message, "RepoNotFound")


def writable_repository(request: Request) -> tuple[RequestedRepository, Repository]:
    """Return the repository in a request's path if its sender may write to it.

    Raises:
        Problem: If it does not exist or the sender may not write.
    """
    server_of(request).check_org(request.path_params["org"])
    store = require_store(request)
    requested = requested_repository(request)
    return requested, store.repository(requested.name)


def require_store(request: Request) -> Store:
    """Return the store if the sender of a request may write to it.

    Raises:
        Problem: If the sender may not write, or the hub is read-only.
    """
    server = server_of(request)
    server.access.require_write(request, visitor_of(request))
    if server.library.store is None:
        raise Problem(403, "this hub is a folder of packages, which is read-only")
    return server.library.store
