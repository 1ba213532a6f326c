"""The command ``zoo``.

Results go to stdout, as JSON with ``--json``. Progress, warnings and errors go to stderr.

| exit status | meaning |
| --- | --- |
| 0 | success |
| 1 | error |
| 2 | wrong usage |
| 3 | done, but some of the input had to be skipped |
| 130 | interrupted with Ctrl-C |
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
from repzoo.report import printable

__all__ = ["import_command", "main", "zoo"]


class _Entry(NamedTuple):
    help: str
    #: ``module:name`` of the command. None if another package registers it as an entry point in the
    #: group "repzoo.commands".
    home: str | None = None
    #: The extra that installs the command's imports.
    extra: str | None = None


#: All commands. Their help texts are here, so that ``zoo --help`` imports none of them.
_COMMANDS = {
    "cache": _Entry("Manage the cache of packages.", "cached:cache"),
    "calibrate": _Entry("Add a calibrated uncertainty to a package.", extra="training"),
    "compare": _Entry("Compare training runs with each other and with papers.", extra="training"),
    "diff": _Entry("Compare the config, metrics and files of two packages.", "finding:diff"),
    "duplicates": _Entry(
        "Find near-duplicates in a source of images.", "duplicates:duplicates", "batch"
    ),
    "embed": _Entry("Embed many images into a Parquet file.", "embedding:embed", "batch"),
    "evaluate": _Entry("Evaluate an encoder under the common protocol.", extra="training"),
    "export": _Entry("Export a training run as a model package.", extra="training"),
    "find": _Entry("Find packages by their properties and metrics.", "finding:find"),
    "hub": _Entry("Create, check and serve hubs.", "hub:hub", "hub"),
    "import": _Entry("Make a package of an encoder from elsewhere.", extra="training"),
    "index": _Entry("Index images and search them.", extra="retrieval"),
    "info": _Entry("Show the details of a package.", "listing:info"),
    "keys": _Entry("Manage the API keys of a server.", "keys:keys"),
    "list": _Entry("List the packages of a hub.", "listing:list_"),
    "map": _Entry("Draw a map of many images, as one HTML file.", "map:map_", "batch"),
    "path": _Entry("Print the path of a package in the cache.", "cached:path"),
    "probe": _Entry("Fit classifiers to your own labels.", extra="training"),
    "publish": _Entry("Publish a package to a hub.", "publishing:publish"),
    "pull": _Entry("Download packages into the cache and verify them.", "pulling:pull"),
    "rm": _Entry("Remove a package from the cache.", "cached:rm"),
    "serve": _Entry("Serve models over HTTP.", extra="serving"),
    "train": _Entry("Train an encoder on unlabelled images.", extra="training"),
    "verify": _Entry("Verify the files and outputs of a package.", "verifying:verify"),
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
        return import_command(self.name).make_context(info_name, args, parent, **extra)


class _Zoo(click.Group):
    def invoke(self, ctx: click.Context) -> None:
        try:
            # The return value of a command is not an exit status.
            super().invoke(ctx)
        except (MissingExtra, ModuleNotFoundError) as error:
            entry = _COMMANDS.get(ctx.invoked_subcommand or "")
            if entry is None or entry.extra is None or (error.name or "").startswith("repzoo"):
                raise
            # The command's own extra includes "runtime", but not others such as "ray".
            if isinstance(error, MissingExtra) and error.extra != "runtime":
                raise
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
    """Find, pull, verify, publish, train and serve pretrained image encoders.

    A package is NAME, hf://ORG/NAME or https://HOST/ORG/NAME, optionally followed by @REVISION. A
    revision is a tag, a commit or a sha256, or the first 7 or more digits of the last two.

    Commands that also take the path of a package prefer a folder NAME in the working directory,
    unless --hub is given. ./NAME always means the folder.
    """


def main() -> None:
    """Run ``zoo`` with this process's arguments, and exit."""
    logging.basicConfig(format="zoo: %(message)s", level=logging.WARNING, stream=sys.stderr)
    if isinstance(sys.stdout, TextIOWrapper):
        # Output must not fail because of its characters. File names that are not UTF-8 are printed
        # byte for byte; characters that another encoding lacks become question marks.
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
    text = " ".join(message.split()).encode(errors="backslashreplace").decode()
    click.echo(f"zoo: {printable(text)}", err=True)
    return status


def import_command(name: str) -> click.Command:
    """Import and return a command of ``zoo``.

    Raises:
        ImportError: If the extra that it needs is not installed.
    """
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
