"""`zoo hub serve`: run the application on a socket until a signal stops it."""

from __future__ import annotations

import ipaddress
import signal
import socket
from pathlib import Path

import click
import uvicorn

from repzoo.errors import HubError, InvalidInput
from repzoo.hub_server.access import Access
from repzoo.hub_server.access_log import AccessLog, LogWriter, configure_log
from repzoo.hub_server.app import OTHER_KINDS, create_app
from repzoo.hub_server.context import ORG, Server
from repzoo.hub_server.library import open_library
from repzoo.hub_server.protocol import ImpatientProtocol
from repzoo.secrets_file import SecretFile

__all__ = ["serve"]

#: Concurrent requests; more get a 503, which clients retry.
_MAX_REQUESTS = 512
#: Seconds for requests to finish when the server is stopped.
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
    """Serve a hub until SIGINT or SIGTERM.

    Args:
        folder: A store, or a folder of packages.
        host: The address to listen on.
        port: The port; 0 picks a free one.
        org: The organisation of its repositories.
        tokens: The file of tokens; without one nobody may write, unless ``open_`` is set.
        public: Whether reading needs no token.
        open_: Whether anyone may write; only allowed on a loopback address.

    Raises:
        HubError: If the hub does not exist or the address cannot be used.
        InvalidInput: If the token file cannot be used, or options exclude each other.
    """
    if ORG.fullmatch(org) is None or org in ("api", "login", "health", *OTHER_KINDS):
        raise InvalidInput(f"{org!a} is not a valid organisation: use 1 to 64 of A-Z a-z 0-9 . _ -")
    if open_ and not _is_loopback(host):
        raise InvalidInput(
            f"--open lets anyone write, so it cannot be used on {host}; use --tokens FILE"
        )
    if open_ and (tokens is not None or not public):
        raise InvalidInput("--open cannot be combined with --tokens or --private")
    if tokens is None and not public:
        raise InvalidInput("--private needs --tokens FILE, otherwise nobody could read")
    library = open_library(folder)
    file = SecretFile(tokens) if tokens is not None else None
    if library.store is not None:
        library.store.blobs.clear_leftovers()

    server = Server(library, Access(file, public, open_), org)
    log = AccessLog(create_app(server))
    listener = _listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    click.echo(f"Serving at {url}/{org}")
    click.echo(f"{_rules(server)} Press Ctrl-C to stop.")
    writer = LogWriter()
    configure_log(writer)
    config = uvicorn.Config(
        log,
        http=ImpatientProtocol,
        log_config=None,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_REQUESTS,
        timeout_graceful_shutdown=_GRACE,
    )
    # uvicorn finishes its requests and then sends itself the signal again.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])
    writer.write(f"{log.summary}\n")
    writer.close(1.0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise HubError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    # From now on connections are accepted, even before the server runs.
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
        return f"{readers}; a folder of packages is read-only."
    if access.open:
        return "Anyone on this machine may read and write."
    if access.tokens is None:
        return f"{readers}; writing needs --tokens FILE or --open."
    return f"{readers}; tokens in {access.tokens.path} with role=write may write."
