"""What ``zoo serve`` prints when its server is ready: the address, the models and an example."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import shlex
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from repzoo.catalogue.listing import card_of_package
from repzoo.errors import InvalidInput, PackageError
from repzoo.packages.metrics import own_probes
from repzoo.packages.package import Package

from repzoo_serving.models.references import read_references, split_alias
from repzoo_serving.settings import Settings

__all__ = ["Announcer", "announcement", "server_url"]

# A 16 × 16 image of a seven, small enough for a command line.
_SEVEN = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAJklEQVR42mNggAH+H0wMDAwMBkwMDExQkoGB4QATAwMz"
    "owITTBUAP3UCWmPeJIEAAAAASUVORK5CYII="
)


def server_url(address: str, port: int) -> str:
    """Return the URL of a server on this machine that listens on ``address``."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"http://{ip}:{port}" if ip.version == 4 else f"http://[{ip}]:{port}"


class Announcer(threading.Thread):
    """Waits in the supervisor until the server responds, and prints that it is ready.

    It prints to stdout, but to stderr if JSON logs go to stdout.

    BentoML would restart a worker that cannot start again and again. If the first worker exits
    before it has responded, the announcer ends the server instead, and ``failed`` is true.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        super().__init__(name="announcer", daemon=True)
        self._settings = settings
        self._url = url
        self.failed = False
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        import psutil  # type: ignore[import-untyped]

        supervisor = psutil.Process()
        worker: psutil.Process | None = None
        while not self._stopped.wait(0.1):
            served = _get_models(self._url, self._settings.supervisor_key)
            if served is not None:
                text = announcement(self._url, served, self._settings)
                click.echo(text, err=self._settings.log == "json")
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


def announcement(url: str, served: dict[str, Any], settings: Settings) -> str:
    """Return what is printed when the server is ready, given its response of ``/models``."""
    models = served["models"]
    width = max((len(model["name"]) for model in models), default=0)
    lines = [f"  {m['name']:{width}}  {m['provider']}  {m['revision'][:12]}" for m in models]
    lines += [f"  {each['reference']} failed: {each['reason']}" for each in served["failed"]]
    if models:
        path, options = _example(models[0]["name"], settings)
        request = {"model": models[0]["name"], **options, "images": [_SEVEN]}
        body = json.dumps(request, separators=(",", ":"))
        key = ""
        if settings.keys is not None:
            file = shlex.quote(settings.keys)
            lines.append(f"Requests need a key; make one with: zoo keys add NAME {file}")
            key = '-H "Authorization: Bearer $REPZOO_API_KEY" '
        curl = f"curl {url}{path} {key}-H 'Content-Type: application/json' -d '{body}'"
        lines += ["Try it:", f"  {curl}"]
    elif not lines:
        lines.append(f"  No model is served yet: {settings.watch} lists none.")
    return "\n".join([f"Serving at {url}", *lines, "Press Ctrl-C to stop."])


def _example(name: str, settings: Settings) -> tuple[str, dict[str, str]]:
    """Return a path to try with a model, and the options that it needs.

    It is /probe for a model with a probe of the user's own, which is what it is served for.
    """
    references: Sequence[str] = settings.models
    with suppress(InvalidInput):  # the watched file may be gone by now
        if settings.watch is not None:
            references = read_references(Path(settings.watch))[0]
    for reference in references:
        # What cannot be read, such as a line of the watched file, is reported elsewhere. A name in
        # it is a package of the hub, which has no probes of the user's own.
        with suppress(PackageError, InvalidInput):
            alias, folder = split_alias(reference)
            card = card_of_package(Package.open(folder))
            if (alias or card.config.name) != name:
                continue
            for own in reversed(own_probes(card.metrics)):
                if own.task is not None and (spec := card.config.probe(own.task, own.name)):
                    kind = {} if spec.kind == "linear" else {"kind": spec.kind}
                    return "/probe", {"task": spec.task, **kind}
    return "/embed", {}
