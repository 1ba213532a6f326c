"""Check what the settings name before a server starts: files, models, the index and the address."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
from repzoo.errors import InvalidInput, MissingExtra, RepzooError
from repzoo.hubs.opening import open_hub
from repzoo.index_source import image_folder, warning
from repzoo.packages.reference import is_path
from repzoo.secrets_file import read_secrets

from repzoo_serving.configuration import Configuration, flag
from repzoo_serving.models.references import read_references, split_alias
from repzoo_serving.settings import Settings

__all__ = ["Prepared", "Problems", "prepare"]


class Prepared(NamedTuple):
    """Settings that mean the same in the working folder of a worker, and what they resolve to."""

    settings: Settings
    #: IP address, and port to listen on.
    address: str
    port: int
    #: Names of the models and their revisions.
    models: tuple[tuple[str, str], ...]


class Problems:
    """What is wrong with the settings, each with its source such as ``--keys``."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self.lines: list[str] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Record an error about a setting instead of raising it."""
        try:
            yield
        except RepzooError as error:
            self.lines.append(f"{self._sources.get(name, flag(name))}: {error}")

    def require_none(self) -> None:
        """Raise RepzooError if there are any."""
        if self.lines:
            raise RepzooError("; ".join(self.lines))


def prepare(
    configuration: Configuration, scratch: Path, problems: Problems, *, everything: bool = False
) -> Prepared:
    """Check what the settings name, and pull and verify the models.

    Args:
        configuration: The settings, and where they come from.
        scratch: Where to write the index's vectors.
        problems: Gets what is wrong.
        everything: Go on after the first problems, and check the models of a watched file too.

    Raises:
        RepzooError: If something is wrong, unless ``everything`` is to be checked.
    """
    settings, models, models_from = configuration.settings, configuration.settings.models, "models"
    address, port = "", 0
    with problems.of("host"):
        address = _address(settings.host)
    if not everything:  # during a check, a server with the present settings may use the port
        problems.require_none()
        with problems.of("port"):
            port = _free_port(address, settings.port)
    with problems.of("watch"):
        if settings.watch is not None:
            listed = _listed(Path(settings.watch).absolute())
            if everything:
                models, models_from = tuple(listed), "watch"
    with problems.of("keys"):
        if settings.keys is not None:
            read_secrets(Path(settings.keys))
    with problems.of("index_images"):
        if settings.index_images is not None and not Path(settings.index_images).is_dir():
            raise InvalidInput(f"{settings.index_images} is not a folder")
    with problems.of("otlp"):
        if settings.otlp is not None:
            _require_exporter()
    hub_is_good = False
    with problems.of("hub"):
        if settings.hub is not None:
            open_hub(settings.hub)
        hub_is_good = True
    if not everything:
        problems.require_none()

    revisions: dict[str, str] = {}
    served: list[tuple[str, str]] = []
    for reference in models:
        with problems.of(models_from):
            alias, rest = split_alias(reference)
            if is_path(rest, named=settings.hub is not None) or hub_is_good:
                folder, name, revision = _package(rest, settings.hub)
                revisions[folder if alias is None else f"{alias}={folder}"] = revision
                served.append((alias or name, revision))
    with problems.of(models_from):
        counts = Counter(name for name, _ in served)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise InvalidInput(
                f"two of the models are named {', '.join(twice)}; serve one as ALIAS={twice[0]}"
            )
    update: dict[str, object] = {
        "models": () if settings.watch is not None else tuple(revisions),
        "watch": _absolute(settings.watch),
        "hub": _where(settings.hub),
        "keys": _absolute(settings.keys),
    }
    with problems.of("index"):
        if settings.index is not None:
            update |= _index(settings, scratch, revisions.values())
    if not everything:
        problems.require_none()
    return Prepared(settings.model_copy(update=update), address, port, tuple(served))


def _listed(file: Path) -> list[str]:
    if not file.is_file():
        raise InvalidInput(f"{file} is not a file")
    return read_references(file)[0]


def _require_exporter() -> None:
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401
    except ImportError as error:
        raise MissingExtra("sending spans", "tracing", error) from error


def _package(reference: str, hub: str | None) -> tuple[str, str, str]:
    """Verify a package, and return its folder, name and revision."""
    from repzoo.loading import find

    package = find(reference, hub=None if is_path(reference, named=hub is not None) else hub)
    return str(package.path.absolute()), package.config.name, package.revision


def _index(settings: Settings, scratch: Path, revisions: Collection[str]) -> dict[str, str | None]:
    """Return the settings of the index, which is now a file that workers can read.

    Args:
        settings: The settings.
        scratch: Where to write the file.
        revisions: The revisions of the served models; empty if they are not known yet.

    Raises:
        InvalidInput: If the index cannot be read, or another model has made its vectors.
    """
    from repzoo_serving.models.image_index import ImageIndex, export

    place = settings.index or ""
    file = Path(place)
    if not file.is_file():
        file = scratch / "index.npz"
        export(place, file)
    index = ImageIndex(file)
    if revisions and index.revision not in revisions:
        wanted = f"{index.model}@{index.revision[:12]}"
        raise InvalidInput(
            f"--index {place} has the vectors of {wanted}, which is not among the models; serve "
            f"{wanted}, or build another index: zoo index build DIR --model NAME --out NEW"
        )
    if message := warning(place):
        click.echo(f"zoo: {message}", err=True)
    images = settings.index_images or image_folder(place)
    return {"index": _absolute(file), "index_images": _absolute(images)}


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
        raise InvalidInput(f"{host}: {error.strerror or error}") from None
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
                f"port {port} needs more privileges; choose a port above 1023"
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"port {port} on {address} is in use; choose another"
            else:
                message = f"cannot listen on {address} port {port}: {error.strerror}"
            raise InvalidInput(message) from None
        return int(probe.getsockname()[1])
