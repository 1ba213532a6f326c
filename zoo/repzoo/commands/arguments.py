"""Arguments and options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from repzoo.bulk.skipping import MAX_SKIPPED
from repzoo.cache.cache import Cache
from repzoo.errors import InvalidInput
from repzoo.packages.package import Package
from repzoo.packages.reference import Reference, is_path

__all__ = [
    "hub_option",
    "local_package",
    "name_or_path_argument",
    "overview_options",
    "reference_argument",
    "references_argument",
    "skipping_options",
]

hub_option = click.option(
    "--hub",
    "hub_spec",
    metavar="HUB",
    help="A folder of packages, a store, hf://ORG or https://HOST/ORG.  [default: $REPZOO_HUB or "
    "the bundled packages]",
)


def _parse_reference(_ctx: click.Context, _param: click.Parameter, value: str) -> Reference:
    try:
        return Reference.parse(value)
    except InvalidInput as error:
        raise click.BadParameter(str(error)) from None


def _parse_references(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[Reference, ...]:
    return tuple(_parse_reference(ctx, param, value) for value in values)


reference_argument = click.argument("reference", metavar="NAME[@REV]", callback=_parse_reference)
references_argument = click.argument(
    "references", metavar="NAME[@REV]...", nargs=-1, required=True, callback=_parse_references
)
name_or_path_argument = click.argument("name_or_path", metavar="NAME[@REV]|PATH")


def skipping_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--max-skipped SHARE`` and ``--strict``, which is 0, as the parameter max_skipped."""
    command = click.option(
        "--strict",
        "max_skipped",
        flag_value=0.0,
        help="Fail if any image cannot be read: the same as --max-skipped 0.",
    )(command)
    return click.option(
        "--max-skipped",
        metavar="SHARE",
        type=click.FloatRange(0, 1),
        default=MAX_SKIPPED,
        show_default=True,
        help="Fail if more than this share of the images cannot be read. One image may always be "
        "skipped.",
    )(command)


def overview_options(out_help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add what a command needs to embed a source of images into the folder ``--out``."""
    options = (
        click.argument("source"),
        click.option("--model", metavar="NAME[@REV]|PATH", required=True, help="The model to use."),
        click.option(
            "--out",
            metavar="DIR",
            type=click.Path(path_type=Path, file_okay=False),
            required=True,
            help=out_help,
        ),
        hub_option,
        click.option("--overwrite", is_flag=True, help="Discard the embeddings of another run."),
        skipping_options,
    )

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def local_package(name_or_path: str) -> Package:
    """Open the package in a folder or, by its name, in the cache."""
    if is_path(name_or_path):
        return Package.open(name_or_path)
    return Cache().find(Reference.parse(name_or_path))
