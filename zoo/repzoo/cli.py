"""The command ``zoo``.

What it prints for people goes to stdout, with ``--json`` as JSON and nothing else; progress,
warnings and errors go to stderr. Exit status: 0, 1 for errors, 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import codecs
import importlib
import logging
import os
import sys
from io import TextIOWrapper
from typing import Any, NamedTuple

import click

from repzoo.errors import MissingExtra, RepzooError

__all__ = ["main", "zoo"]


class _Entry(NamedTuple):
    help: str
    #: ``module:name`` of the command; None: another package registers it as an entry point of the
    #: group "repzoo.commands".
    home: str | None = None
    #: what to install where its imports are not there.
    extra: str | None = None


#: All commands. Their help stands here, so that ``zoo --help`` imports none of them.
_COMMANDS = {
    "cache": _Entry("Look after the cache of packages.", "cached:cache"),
    "calibrate": _Entry(
        "Give a package an uncertainty, and measure what it is worth.", extra="training"
    ),
    "compare": _Entry(
        "Set training runs beside each other and published numbers.", extra="training"
    ),
    "diff": _Entry("Set the config and metrics of two packages side by side.", "finding:diff"),
    "embed": _Entry("Embed many images into one parquet file.", "embedding:embed"),
    "evaluate": _Entry("Measure an encoder under the common protocol.", extra="training"),
    "export": _Entry("Write the model package of a training run.", extra="training"),
    "find": _Entry("Find packages by what they are and how good they are.", "finding:find"),
    "hub": _Entry("Make, serve and keep hubs.", "hub:hub"),
    "index": _Entry("Index folders of images, and search them.", extra="retrieval"),
    "info": _Entry("Show what is known about a package.", "listing:info"),
    "list": _Entry("List the packages of a hub.", "listing:list_"),
    "path": _Entry("Print where a package lies in the cache.", "cached:path"),
    "publish": _Entry("Publish a package to a hub.", "publishing:publish"),
    "pull": _Entry("Bring packages into the cache, verified.", "pulling:pull"),
    "rm": _Entry("Remove a package from the cache.", "cached:rm"),
    "serve": _Entry("Serve models over HTTP.", extra="serving"),
    "train": _Entry("Train an encoder on unlabelled images.", extra="training"),
    "verify": _Entry("Check a package in the cache or a folder.", "verifying:verify"),
}


class _Lazy(click.Command):
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
    def invoke(self, ctx: click.Context) -> None:
        try:
            # What a command returns is no exit status.
            super().invoke(ctx)
        except (MissingExtra, ModuleNotFoundError) as error:
            entry = _COMMANDS.get(ctx.invoked_subcommand or "")
            if entry is None or entry.extra is None or (error.name or "").startswith("repzoo"):
                raise
            # The command's extra brings along what any part of it needs.
            cause = error.__cause__ if isinstance(error, MissingExtra) else error
            missing = cause if isinstance(cause, ImportError) else None
            raise MissingExtra(f"zoo {ctx.invoked_subcommand}", entry.extra, missing) from error


@click.group(
    cls=_Zoo,
    commands=[_Lazy(name, help=entry.help) for name, entry in _COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="repzoo", prog_name="zoo")
def zoo() -> None:
    """Model packages of pretrained image encoders: find, pull, verify, publish, train and serve.

    NAME may be NAME@REVISION, where the revision is a tag, a commit or a sha256, or the start of
    one of the last two, or NAME@sha256:DIGEST; and hf://ORG/NAME or https://HOST/ORG/NAME.
    """


def main() -> None:
    """Run ``zoo`` with the arguments of this process, and exit."""
    logging.basicConfig(format="zoo: %(message)s", level=logging.WARNING, stream=sys.stderr)
    if isinstance(sys.stdout, TextIOWrapper):
        # What cannot be written is no reason to fail: names of files that are not UTF-8 come out
        # as they are, and signs that another encoding does not have as question marks.
        is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "replace")
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
    home = _COMMANDS[name].home
    if home is None:
        from importlib.metadata import entry_points

        (point,) = entry_points(group="repzoo.commands", name=name)
        command = point.load()
    else:
        module, _, attribute = home.partition(":")
        command = getattr(importlib.import_module(f"repzoo.commands.{module}"), attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"zoo {name} is {command!r}, not a click command")
    return command
