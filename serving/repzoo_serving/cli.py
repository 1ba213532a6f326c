"""``zoo serve``: check what can be checked, hand over to BentoML, and say when it is ready.

This process supervises. It holds the port and starts the worker, which loads the models; when the
worker ends it is started again, and when this process ends, however it does, so does the worker.
"""

from __future__ import annotations

import errno
import http.client
import ipaddress
import json
import os
import secrets
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import click
from repzoo.errors import HubError, InvalidInput, MissingExtra, RepzooError

from repzoo_serving.api.keys import KeyFile
from repzoo_serving.api.keys import new_key as make_key
from repzoo_serving.settings import Settings

__all__ = ["serve"]

# A 16 x 16 picture of a seven, small enough for a command line.
_SEVEN = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAJklEQVR42mNggAH+H0wMDAwMBkwMDExQkoGB4QATAwMz"
    "owITTBUAP3UCWmPeJIEAAAAASUVORK5CYII="
)


@click.command()
@click.option(
    "--models",
    metavar="NAME[,NAME...]",
    help="Models to serve: names, NAME@REVISION, or folders of packages.",
)
@click.option(
    "--watch",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A file of such, one a line; what it says is served, also when it changes.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=3000,
    show_default=True,
    help="Port to listen on; 0 takes any that is free.",
)
@click.option("--hub", help="The hub that names are looked up in.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    help="Where the models run.  [default: a GPU that works, else the CPU]",
)
@click.option(
    "--log",
    type=click.Choice(["none", "json"]),
    help="Log requests to stdout, a JSON object a line.  [default: none]",
)
@click.option(
    "--otlp",
    metavar="URL",
    help="Send spans of requests to an OpenTelemetry collector, by OTLP over HTTP.",
)
@click.option(
    "--keys",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of API keys; with it, requests need one.",
)
@click.option("--new-key", metavar="NAME", help="Add a key to the file, print it once, and end.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Requests a second for each key, or for the new one.",
)
def serve(
    models: str | None,
    watch: Path | None,
    host: str,
    port: int,
    hub: str | None,
    provider: str | None,
    log: str | None,
    otlp: str | None,
    keys: Path | None,
    new_key: str | None,
    rate: float | None,
) -> None:
    """Serve models over HTTP until Ctrl-C.

    Models that are not in the cache are pulled; every file is verified before the server starts.
    """
    if new_key is not None:
        if keys is None:
            raise click.UsageError("--new-key needs --keys")
        click.echo(make_key(keys, new_key, rate=rate))
        return
    names = [name for name in (part.strip() for part in (models or "").split(",")) if name]
    if bool(names) == (watch is not None):
        raise click.UsageError("name models by --models, or a file of them by --watch")
    if otlp is not None and not otlp.startswith(("http://", "https://")):
        raise click.UsageError(f"--otlp {otlp}: expected a URL such as http://127.0.0.1:4318")
    address = _address(host)
    port = _free_port(address, port)
    try:
        import bentoml  # noqa: F401
        import psutil  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise MissingExtra("zoo serve", "serving", error) from error
    paths = _packages(names, hub)
    with tempfile.TemporaryDirectory(prefix="zoo-serve-") as scratch:
        settings = _settings(
            watch=_absolute(watch),
            models=paths,
            hub=_where(hub),
            provider=provider,
            log=log,
            otlp=otlp,
            keys=_absolute(keys or os.environ.get("REPZOO_SERVE_KEYS")),
            rate=rate,
        )
        if settings.keys is not None:
            KeyFile(Path(settings.keys))  # whether it can be used shows here, not in a worker
        elif not ipaddress.ip_address(address).is_loopback:
            click.echo(f"whoever reaches {address} can use the server; see --keys", err=True)
        os.environ |= settings.to_environ() | {
            # Of its own for every server: BentoML keeps files here that two would take from each
            # other, and creates folders in the user's home if it is not told otherwise.
            "BENTOML_HOME": scratch,
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_QUIET": "True",
        }
        # Only now: BentoML reads its variables, and the service ours, on import.
        from repzoo_serving import service as module

        # The decorator has made a bentoml.Service of the class, which type checkers do not see.
        service: Any = module.RepzooService
        # Workers put the folder they start in on the import path; nothing of the user's shall be.
        service.working_dir = scratch
        herald = _Herald(address, port, settings.supervisor_key)
        herald.start()
        try:
            service.serve_http(host=address, port=port)
        except OSError as error:
            raise HubError(f"the server cannot listen on {_url(address, port)}: {error}") from error
        finally:
            herald.stop()
    if herald.failed:
        raise RepzooError("the server did not start: its worker ended; the lines above say why")


def _packages(names: list[str], hub: str | None) -> list[str]:
    """The folders of verified packages of these names."""
    from repzoo.loading import find
    from repzoo.packages.reference import is_path

    packages = [find(name, hub=None if is_path(name) else hub) for name in names]
    called = [package.config.name for package in packages]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise InvalidInput(f"two of the models are called {', '.join(twice)}")
    return [str(package.path.absolute()) for package in packages]


def _settings(*, watch: str | None, **options: Any) -> Settings:
    """The workers' settings: those of the environment, and what the command line says.

    Options that are None were not given.
    """
    given = Settings.from_environ(os.environ).model_dump()
    told = {name: value for name, value in options.items() if value is not None}
    told |= {"watch": watch, "supervisor": os.getpid(), "supervisor_key": secrets.token_urlsafe(32)}
    return Settings.model_validate(given | told)


def _absolute(path: str | Path | None) -> str | None:
    # Workers run in another folder.
    return str(Path(path).absolute()) if path else None


def _where(hub: str | None) -> str | None:
    """A hub that means the same in another folder."""
    hub = hub or os.environ.get("REPZOO_HUB")
    return hub if hub is None or "://" in hub else _absolute(hub)


def _address(host: str) -> str:
    """The IP address that ``host`` stands for; BentoML takes no names."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInput(f"--host {host}: {error.strerror or error}") from None
    # IPv4 first: it is what "localhost" means to most clients.
    return str(min(found, key=lambda info: info[0] != socket.AF_INET)[4][0])


def _free_port(address: str, port: int) -> int:
    """``port``, or a free one for 0.

    Raises:
        InvalidInput: if nobody can listen there.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server does: connections of an earlier one that linger do not take the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except PermissionError:
            raise InvalidInput(
                f"port {port} needs more rights than you have; choose one from 1024 with --port"
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"port {port} on {address} is taken; choose another with --port"
            else:
                message = f"cannot listen on {address} port {port}: {error.strerror}"
            raise InvalidInput(message) from None
        return int(probe.getsockname()[1])


def _url(address: str, port: int) -> str:
    """The URL at which this machine reaches a server that listens on ``address``."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"http://{ip}:{port}" if ip.version == 4 else f"http://[{ip}]:{port}"


class _Herald(threading.Thread):
    """Waits beside the supervisor until the server answers, and says so.

    BentoML would start a worker that cannot start again and again; if the first ends before it
    has answered, the herald ends the server instead, and ``failed`` is true.
    """

    def __init__(self, address: str, port: int, key: str | None) -> None:
        super().__init__(name="herald", daemon=True)
        self._key = key
        self.url = _url(address, port)
        self.failed = False
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        import psutil

        supervisor = psutil.Process()
        worker: psutil.Process | None = None
        while not self._stopped.wait(0.1):
            models = _get_models(self.url, self._key)
            if models is not None:
                click.echo(_announcement(self.url, models))
                return
            if worker is None:
                worker = next(iter(supervisor.children()), None)
            elif not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE:
                self.failed = True
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _get_models(url: str, key: str | None) -> list[dict[str, Any]] | None:
    """What ``/models`` says, or None as long as nobody answers."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=1)
    try:
        connection.request("GET", "/models", headers={"Authorization": f"Bearer {key}"})
        models: list[dict[str, Any]] = json.loads(connection.getresponse().read())["models"]
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return models


def _announcement(url: str, models: list[dict[str, Any]]) -> str:
    if not models:
        return f"Serving at {url}\n  no model yet; the log says why\nCtrl-C ends it."
    width = max(len(model["name"]) for model in models)
    lines = [f"  {m['name']:{width}}  {m['provider']}  {m['revision'][:12]}" for m in models]
    body = json.dumps({"model": models[0]["name"], "images": [_SEVEN]}, separators=(",", ":"))
    return "\n".join(
        [
            f"Serving at {url}",
            *lines,
            "Try it:",
            f"  curl {url}/embed -H 'Content-Type: application/json' -d '{body}'",
            "Ctrl-C ends it.",
        ]
    )
