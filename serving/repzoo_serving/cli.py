"""``zoo serve``: check the settings, start BentoML, and announce when the server is ready.

This process is the supervisor. It holds the port and starts the worker, which loads the models. It
restarts a worker that exits, and the worker exits with it, however it ends.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo
from repzoo.errors import HubError, MissingExtra, RepzooError
from repzoo.report import printable

from repzoo_serving.announcement import Announcer, server_url
from repzoo_serving.configuration import PREFIX, configure, flag, to_environ
from repzoo_serving.preparation import Prepared, Problems, prepare
from repzoo_serving.settings import SECTIONS, Settings
from repzoo_serving.supervision import Deaths, watching_workers
from repzoo_serving.telemetry.logs import LogWriter

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
@click.option(
    "--check",
    is_flag=True,
    help="Check the settings and everything that they name, such as files and models, report all "
    "problems, and exit. Models that are not cached are pulled.",
)
@_option_per_setting
@click.pass_context
def serve(
    context: click.Context, /, config: Path | None, print_config: bool, check: bool, **flags: Any
) -> None:
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
    if not found.settings.models and not found.settings.watch:
        raise click.UsageError("give either --models or --watch")
    try:
        import bentoml  # noqa: F401
        import psutil  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise MissingExtra("zoo serve", "serving", error) from error
    problems = Problems(found.sources)
    with tempfile.TemporaryDirectory(prefix="zoo-serve-") as scratch:
        prepared = prepare(found, Path(scratch), problems, everything=check)
        if prepared.settings.keys is None and not _is_loopback(prepared.address):
            click.echo(
                f"anyone who can reach {prepared.address} can use the server; see --keys", err=True
            )
        if check:
            context.exit(_report(prepared, problems))
        _serve(prepared, scratch)


def _report(prepared: Prepared, problems: Problems) -> int:
    """Print what a check has found, and return the exit status."""
    for line in problems.lines:
        click.echo(f"zoo: {printable(line)}", err=True)
    if problems.lines:
        return 1
    for name, revision in prepared.models:
        click.echo(f"{name}  {revision[:12]}")
    click.echo("The settings are valid, and everything that they name exists.")
    return 0


def _serve(prepared: Prepared, scratch: str) -> None:
    settings, address, port, _ = prepared
    deaths = Path(scratch) / "deaths"
    settings = settings.model_copy(
        update={
            "supervisor": os.getpid(),
            "supervisor_deaths": str(deaths),
            "supervisor_key": secrets.token_urlsafe(32),
        }
    )
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
        with watching_workers(Deaths(deaths), LogWriter(as_json=settings.log == "json")):
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


def _is_loopback(address: str) -> bool:
    return not address or ipaddress.ip_address(address).is_loopback
