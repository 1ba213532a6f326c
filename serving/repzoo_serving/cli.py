"""``zoo serve``: check the settings, start BentoML, and announce when the server is ready.

This process is the supervisor. It holds the port and starts the worker, which loads the models. It
restarts a worker that exits, and the worker exits with it, however it ends.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo
from repzoo.errors import HubError, InvalidInput, MissingExtra, RepzooError
from repzoo.secrets_file import read_secrets

from repzoo_serving.announcement import Announcer, server_url
from repzoo_serving.configuration import PREFIX, configure, flag, to_environ
from repzoo_serving.settings import SECTIONS, Settings

__all__ = ["serve"]

_METAVARS = {
    "models": "NAME[,NAME...]",
    "watch": "FILE",
    "index": "INDEX",
    "index_images": "DIR",
    "keys": "FILE",
    "public": "GROUP[,GROUP...]",
    "cors_origins": "ORIGIN[,ORIGIN...]",
    "otlp": "URL",
}
_BOUNDS = {"ge": ("min", False), "gt": ("min", True), "le": ("max", False)}


class _Command(click.Command):
    """Lists its options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {each.name: each.get_help_record(ctx) for each in self.get_params(ctx)}
        rows = {title: [records.pop(name) for name in names] for title, names in SECTIONS.items()}
        for title, section in {"Options": list(records.values()), **rows}.items():
            with formatter.section(title):
                formatter.write_dl([row for row in section if row is not None])


def _option_per_setting(command: Callable[..., None]) -> Callable[..., None]:
    for names in reversed([*SECTIONS.values()]):
        for name in reversed(names):
            field = Settings.model_fields[name]
            default = field.default
            if isinstance(default, tuple):
                default = ",".join(default) or None
            kind = _type(field)
            number = "SECONDS" if name.endswith("_seconds") else "N"
            is_number = isinstance(kind, click.IntRange | click.FloatRange)
            add = click.option(
                flag(name),
                type=kind,
                default=default,
                show_default=default is not None,
                metavar=number if is_number else _METAVARS.get(name),
                help=field.description,
            )
            command = add(command)
    return command


def _type(field: FieldInfo) -> click.ParamType[Any] | None:
    """Return the type of a setting's option; None for text, also that of a list."""
    if get_origin(field.annotation) is tuple:
        return None
    kinds = (field.annotation, *get_args(field.annotation))
    for kind in kinds:
        if get_origin(kind) is Literal:
            return click.Choice(get_args(kind))
    bounds: dict[str, Any] = {}
    for each in field.metadata:
        for name, (end, is_open) in _BOUNDS.items():
            if (bound := getattr(each, name, None)) is not None:
                bounds |= {end: bound, f"{end}_open": is_open}
    if int in kinds:
        return click.IntRange(**bounds)
    return click.FloatRange(**bounds) if float in kinds else None


@click.command(cls=_Command)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file of settings: max_images = 64.  [default: $REPZOO_SERVE_CONFIG]",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print all settings as such a file, with their meanings and what set them, and exit.",
)
@_option_per_setting
@click.pass_context
def serve(context: click.Context, /, config: Path | None, print_config: bool, **flags: Any) -> None:
    """Serve models over HTTP until Ctrl-C.

    Models that are not in the cache are pulled, and every file is verified before the server
    starts.

    Each setting is a flag (--max-images 64), a variable (REPZOO_SERVE_MAX_IMAGES=64), or a key of
    the file that --config names (max_images = 64). A flag wins over a variable, a variable over
    the file, and the file over the default. Give the models with --models or --watch.
    """
    found = configure(os.environ, dict(_given(context, flags)), config)
    if print_config:
        click.echo(found.to_toml(), nl=False)
        return
    settings = found.settings
    if not settings.models and not settings.watch:
        raise click.UsageError("give either --models or --watch")
    if settings.watch and not Path(settings.watch).is_file():
        raise InvalidInput(f"{found.sources['watch']}: {settings.watch} is not a file")
    address = _address(settings.host)
    port = _free_port(address, settings.port)
    try:
        import bentoml  # noqa: F401
        import psutil  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise MissingExtra("zoo serve", "serving", error) from error
    if settings.keys is not None:
        read_secrets(Path(settings.keys))  # a bad file fails here and not in a worker
    elif not ipaddress.ip_address(address).is_loopback:
        click.echo(f"anyone who can reach {address} can use the server; see --keys", err=True)
    packages = _packages(settings.models, settings.hub)
    settings = settings.model_copy(
        update={
            "models": tuple(packages),
            "watch": _absolute(settings.watch),
            "hub": _where(settings.hub),
            "keys": _absolute(settings.keys),
            "supervisor": os.getpid(),
            "supervisor_key": secrets.token_urlsafe(32),
        }
    )
    with tempfile.TemporaryDirectory(prefix="zoo-serve-") as scratch:
        if settings.index is not None:
            index = _index(settings, Path(scratch), packages.values())
            settings = settings.model_copy(update=index)
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            del os.environ[name]
        os.environ |= to_environ(settings) | {
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
        url = server_url(address, port)
        announcer = Announcer(url, settings)
        announcer.start()
        try:
            service.serve_http(host=address, port=port)
        except OSError as error:
            raise HubError(f"the server cannot listen on {url}: {error}") from error
        finally:
            announcer.stop()
    if announcer.failed:
        raise RepzooError("the server did not start because its worker exited; see the lines above")


def _given(context: click.Context, flags: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Return the settings that the command line gives; the others have their defaults."""
    for name, value in flags.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            yield name, value


def _packages(names: Iterable[str], hub: str | None) -> dict[str, str]:
    """Verify the packages with these names; return their revisions by folder, with its alias."""
    from repzoo.loading import find
    from repzoo.packages.reference import is_path

    from repzoo_serving.models.references import split_alias

    folders, served = {}, []
    for name in names:
        alias, rest = split_alias(name)
        package = find(rest, hub=None if is_path(rest) else hub)
        folder = str(package.path.absolute())
        folders[folder if alias is None else f"{alias}={folder}"] = package.revision
        served.append(alias or package.config.name)
    if twice := sorted({name for name in served if served.count(name) > 1}):
        raise InvalidInput(
            f"two of the models are named {', '.join(twice)}; serve one as ALIAS={twice[0]}"
        )
    return folders


def _index(settings: Settings, scratch: Path, revisions: Collection[str]) -> dict[str, str | None]:
    """Return the settings of the index, which is now a file that workers can read.

    Args:
        settings: The settings.
        scratch: Where to write the file.
        revisions: The revisions of the served models; empty if they are not known yet.

    Raises:
        InvalidInput: If the index cannot be read, or another model has made its vectors.
    """
    from repzoo_serving.models.image_index import ImageIndex, export, indexed_folder

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
    images = settings.index_images or indexed_folder(place)
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
