"""``zoo serve``: check the arguments, start BentoML, and announce when the server is ready.

This process is the supervisor. It holds the port and starts the worker, which loads the models. It
restarts a worker that exits, and the worker exits with it, however it ends.
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
from repzoo.secrets_file import add_secret, read_secrets, revoke_secret

from repzoo_serving.settings import Settings

__all__ = ["serve"]

# A 16 × 16 image of a seven, small enough for a command line.
_SEVEN = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAJklEQVR42mNggAH+H0wMDAwMBkwMDExQkoGB4QATAwMz"
    "owITTBUAP3UCWmPeJIEAAAAASUVORK5CYII="
)


@click.command()
@click.option(
    "--models",
    metavar="NAME[,NAME...]",
    help="Models to serve: names, NAME@REVISION, or package folders. ALIAS=NAME@REVISION serves "
    "one under another name.",
)
@click.option(
    "--watch",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File that lists models to serve, one per line; reloaded when it changes.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=3000,
    show_default=True,
    help="Port to listen on; 0 chooses a free one.",
)
@click.option("--hub", help="Hub in which names are looked up.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    help="Where the models run.  [default: a GPU if one works, otherwise the CPU]",
)
@click.option(
    "--log",
    type=click.Choice(["none", "json"]),
    help="Log requests to stdout, one JSON object per line.  [default: none]",
)
@click.option(
    "--otlp",
    metavar="URL",
    help="Send spans of requests to an OpenTelemetry collector by OTLP over HTTP.",
)
@click.option(
    "--keys",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of API keys; with it, requests need a key.",
)
@click.option("--new-key", metavar="NAME", help="Add a key to the file, print it once, and exit.")
@click.option("--revoke-key", metavar="NAME", help="Remove a key from the file, and exit.")
@click.option("--list-keys", is_flag=True, help="List the names of the keys in the file, and exit.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Requests per second for each key, or for the new key.",
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
    revoke_key: str | None,
    list_keys: bool,
    rate: float | None,
) -> None:
    """Serve models over HTTP until Ctrl-C.

    Models that are not in the cache are pulled, and every file is verified before the server
    starts.
    """
    if new_key is not None or revoke_key is not None or list_keys:
        if keys is None:
            raise click.UsageError("--new-key, --revoke-key and --list-keys need --keys")
        if new_key is not None:
            click.echo(add_secret(keys, new_key, prefix="rz_", rate=rate))
        if revoke_key is not None:
            revoke_secret(keys, revoke_key)
        if list_keys:
            for secret in read_secrets(keys):
                click.echo(secret.name)
        return
    names = [name for name in (part.strip() for part in (models or "").split(",")) if name]
    if bool(names) == (watch is not None):
        raise click.UsageError("give either --models or --watch")
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
            read_secrets(Path(settings.keys))  # a bad file fails here and not in a worker
        elif not ipaddress.ip_address(address).is_loopback:
            click.echo(f"anyone who can reach {address} can use the server; see --keys", err=True)
        os.environ |= settings.to_environ() | {
            # A folder per server: BentoML keeps files in it that servers cannot share, and would
            # use the user's home by default.
            "BENTOML_HOME": scratch,
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_QUIET": "True",
        }
        # Imported after the variables are set: BentoML and the service read them on import.
        from repzoo_serving import service as module

        # The decorator turns the class into a bentoml.Service, which type checkers do not see.
        service: Any = module.RepzooService
        # Workers put their working folder on the import path, so it must not be the user's.
        service.working_dir = scratch
        announcer = _Announcer(address, port, settings)
        announcer.start()
        try:
            service.serve_http(host=address, port=port)
        except OSError as error:
            raise HubError(f"the server cannot listen on {_url(address, port)}: {error}") from error
        finally:
            announcer.stop()
    if announcer.failed:
        raise RepzooError("the server did not start because its worker exited; see the lines above")


def _packages(names: list[str], hub: str | None) -> list[str]:
    """Return the folders of the verified packages with these names."""
    from repzoo.loading import find
    from repzoo.packages.reference import is_path

    from repzoo_serving.models.loading import split_alias

    folders, served = [], []
    for name in names:
        alias, rest = split_alias(name)
        package = find(rest, hub=None if is_path(rest) else hub)
        folder = str(package.path.absolute())
        folders.append(folder if alias is None else f"{alias}={folder}")
        served.append(alias or package.config.name)
    if twice := sorted({name for name in served if served.count(name) > 1}):
        raise InvalidInput(
            f"two of the models are named {', '.join(twice)}; serve one as ALIAS={twice[0]}"
        )
    return folders


def _settings(*, watch: str | None, **options: Any) -> Settings:
    """Return the settings of the environment, overridden by ``options`` that are not None."""
    environment = Settings.from_environ(os.environ).model_dump()
    given = {name: value for name, value in options.items() if value is not None}
    given |= {"watch": watch, "supervisor": os.getpid()}
    given["supervisor_key"] = secrets.token_urlsafe(32)
    return Settings.model_validate(environment | given)


def _absolute(path: str | Path | None) -> str | None:
    # Workers run in another folder.
    return str(Path(path).absolute()) if path else None


def _where(hub: str | None) -> str | None:
    """Return the hub such that it means the same in another folder."""
    hub = hub or os.environ.get("REPZOO_HUB")
    return hub if hub is None or "://" in hub else _absolute(hub)


def _address(host: str) -> str:
    """Return the IP address of ``host``; BentoML does not accept names."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInput(f"--host {host}: {error.strerror or error}") from None
    # IPv4 first, because most clients resolve "localhost" to it.
    return str(min(found, key=lambda info: info[0] != socket.AF_INET)[4][0])


def _free_port(address: str, port: int) -> int:
    """Return ``port``, or a free one for 0.

    Raises:
        InvalidInput: If the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server does: lingering connections of an earlier server do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except PermissionError:
            raise InvalidInput(
                f"port {port} needs more privileges; choose a port above 1023 with --port"
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"port {port} on {address} is in use; choose another with --port"
            else:
                message = f"cannot listen on {address} port {port}: {error.strerror}"
            raise InvalidInput(message) from None
        return int(probe.getsockname()[1])


def _url(address: str, port: int) -> str:
    """Return the URL of a server on this machine that listens on ``address``."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"http://{ip}:{port}" if ip.version == 4 else f"http://[{ip}]:{port}"


class _Announcer(threading.Thread):
    """Waits in the supervisor until the server responds, and prints that it is ready.

    BentoML would restart a worker that cannot start again and again. If the first worker exits
    before it has responded, the announcer ends the server instead, and ``failed`` is true.
    """

    def __init__(self, address: str, port: int, settings: Settings) -> None:
        super().__init__(name="announcer", daemon=True)
        self._settings = settings
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
            served = _get_models(self.url, self._settings.supervisor_key)
            if served is not None:
                click.echo(_announcement(self.url, served, self._settings))
                return
            if worker is None:
                worker = next(iter(supervisor.children()), None)
            elif not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE:
                self.failed = True
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _get_models(url: str, key: str | None) -> dict[str, Any] | None:
    """Return the response of ``/models``, or None while the server does not respond."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=1)
    try:
        connection.request("GET", "/models", headers={"Authorization": f"Bearer {key}"})
        served: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return served if "models" in served else None


def _announcement(url: str, served: dict[str, Any], settings: Settings) -> str:
    models = served["models"]
    width = max((len(model["name"]) for model in models), default=0)
    lines = [f"  {m['name']:{width}}  {m['provider']}  {m['revision'][:12]}" for m in models]
    lines += [f"  {each['reference']} failed: {each['reason']}" for each in served["failed"]]
    if models:
        body = json.dumps({"model": models[0]["name"], "images": [_SEVEN]}, separators=(",", ":"))
        key = ""
        if settings.keys is not None:
            lines.append(f"Requests need a key of {settings.keys}; --new-key adds one.")
            key = '-H "Authorization: Bearer $REPZOO_API_KEY" '
        curl = f"curl {url}/embed {key}-H 'Content-Type: application/json' -d '{body}'"
        lines += ["Try it:", f"  {curl}"]
    elif not lines:
        lines.append(f"  No model is served yet: {settings.watch} lists none.")
    return "\n".join([f"Serving at {url}", *lines, "Press Ctrl-C to stop."])
