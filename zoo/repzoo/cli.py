"""The command ``zoo``.

What it prints for people goes to stdout, with ``--json`` as JSON and nothing else; progress,
warnings and errors go to stderr. Exit status: 0, 1 for errors, 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import click

from repzoo import commands
from repzoo.errors import MissingExtra, RepzooError

__all__ = ["main", "zoo"]


class _Elsewhere(NamedTuple):
    help: str
    extra: str


#: Commands that other packages register as entry points of the group "repzoo.commands". Their help
#: stands here, so that ``zoo --help`` imports none of them.
_ELSEWHERE = {
    "compare": _Elsewhere("Set training runs beside each other and published numbers.", "training"),
    "evaluate": _Elsewhere("Measure an encoder under the common protocol.", "training"),
    "export": _Elsewhere("Write the model package of a training run.", "training"),
    "serve": _Elsewhere("Serve models over HTTP.", "serving"),
    "train": _Elsewhere("Train an encoder on unlabelled images.", "training"),
}


class _CommandElsewhere(click.Command):
    """A command that is imported when it is called."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        assert self.name is not None
        return _import_command(self.name).make_context(info_name, args, parent, **extra)


class _Zoo(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            return _CommandElsewhere(cmd_name, help=_ELSEWHERE[cmd_name].help)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> None:
        try:
            # What a command returns is no exit status.
            super().invoke(ctx)
        except (MissingExtra, ModuleNotFoundError) as error:
            command = ctx.invoked_subcommand
            if command not in _ELSEWHERE or (error.name or "").startswith("repzoo"):
                raise
            # The command's extra brings along what any part of it needs.
            cause = error.__cause__ if isinstance(error, MissingExtra) else error
            missing = cause if isinstance(cause, ImportError) else None
            raise MissingExtra(f"zoo {command}", _ELSEWHERE[command].extra, missing) from error


@click.group(cls=_Zoo, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="repzoo", prog_name="zoo")
def zoo() -> None:
    """Model packages of pretrained image encoders: find, pull, verify, publish, train and serve.

    NAME may be NAME@REVISION, where the revision is a sha256 or the start of one.
    """


for _command in (
    commands.list_,
    commands.info,
    commands.pull,
    commands.verify,
    commands.publish,
    commands.rm,
    commands.path,
    commands.hub,
):
    zoo.add_command(_command)


def main() -> None:
    """Run ``zoo`` with the arguments of this process, and exit."""
    logging.basicConfig(format="zoo: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        status = zoo.main(prog_name="zoo", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        status = error.exit_code
    except click.UsageError as error:
        hint = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
        status = _fail(error.format_message().rstrip(".") + hint, error.exit_code)
    except click.ClickException as error:
        status = _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        status = _fail("interrupted", 130)
    except RepzooError as error:
        status = _fail(str(error), 1)
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        status = _fail(f"{where}{error.strerror or error}", 1)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    click.echo("zoo: " + " ".join(message.split()), err=True)
    return status


def _import_command(name: str) -> click.Command:
    (point,) = entry_points(group="repzoo.commands", name=name)
    command = point.load()
    if not isinstance(command, click.Command):
        raise TypeError(f"the entry point of zoo {name} is {command!r}, not a click command")
    return command
