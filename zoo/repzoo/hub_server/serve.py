"""`zoo hub serve`: the application on a socket, until it is told to end."""

from __future__ import annotations

import ipaddress
import signal
import socket
from pathlib import Path

import click
import uvicorn

from repzoo.errors import HubError, InvalidInput
from repzoo.hub_server.access import Access
from repzoo.hub_server.access_log import AccessLog, configure_log
from repzoo.hub_server.app import create_app
from repzoo.hub_server.context import ORG, Server
from repzoo.hub_server.library import open_library
from repzoo.hub_server.protocol import ImpatientProtocol
from repzoo.secrets_file import SecretFile

__all__ = ["serve"]

#: requests that are answered at the same time; others get a 503, which clients try again.
_MAX_REQUESTS = 512
#: seconds that requests have to come to an end when the server is to end.
_GRACE = 10


def serve(
    folder: Path,
    *,
    host: str,
    port: int,
    org: str,
    tokens: Path | None,
    public: bool,
    open_: bool,
) -> None:
    """Serve the hub in ``folder`` until SIGINT or SIGTERM.

    Args:
        folder: a store, or a folder of packages.
        host: the address to listen at.
        port: 0: a free one.
        org: what its repositories are under.
        tokens: the file of tokens; None: nobody may write, unless ``open_``.
        public: whether one may read without a token.
        open_: whether anyone may write, which is for a loopback address only.

    Raises:
        HubError: if there is no hub, no file of tokens, or the address cannot be had.
        InvalidInput: if these do not go together.
    """
    if ORG.fullmatch(org) is None or org in ("api", "login", "health"):
        raise InvalidInput(f"{org!a} cannot be an organisation: A-Z a-z 0-9 . _ -")
    if open_ and not _is_loopback(host):
        raise InvalidInput(f"--open lets anyone write, so it is not for {host}; use --tokens FILE")
    if open_ and (tokens is not None or not public):
        raise InvalidInput("--open lets anyone read and write: it goes with no other rule")
    if tokens is None and not public:
        raise InvalidInput("--private needs --tokens FILE, or nobody could read")
    library = open_library(folder)
    file = SecretFile(tokens) if tokens is not None else None
    if library.store is not None:
        library.store.blobs.clear_leftovers()

    server = Server(library, Access(file, public, open_), org)
    log = AccessLog(create_app(server))
    listener = _listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    click.echo(f"Serving at {url}/{org}")
    click.echo(f"{_rules(server)} Ctrl-C ends it.")
    configure_log()
    config = uvicorn.Config(
        log,
        http=ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_REQUESTS,
        timeout_graceful_shutdown=_GRACE,
    )
    # uvicorn ends its requests, and then sends itself the signal again.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])
    click.echo(log.summary, err=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise HubError(f"cannot listen at {host}:{port}: {error.strerror or error}") from error
    # From here on whoever connects is answered, if a moment later.
    listener.listen(1024)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _rules(server: Server) -> str:
    access = server.access
    readers = "Anyone may read" if access.public else "Any token may read"
    if server.library.store is None:
        return f"{readers}; nobody may write to a folder of packages."
    if access.open:
        return "Anyone on this machine may read and write."
    if access.tokens is None:
        return f"{readers}; nobody may write without --tokens FILE, or --open."
    return f"{readers}; tokens of {access.tokens.path} with --write may write."
