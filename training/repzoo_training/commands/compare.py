"""``zoo compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from repzoo.commands.arguments import skipping_options
from repzoo.report import terminal_width

from repzoo_training.commands.options import chosen_measures, exit_if_skipped

__all__ = ["compare"]


@click.command(epilog="Example: zoo compare runs/* --format markdown --no-figures")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("comparison"),
    show_default=True,
    help="The folder for pictures, with one subfolder per data set if there are several.",
)
@click.option("--data", metavar="SOURCE", help="Defaults to the training data of each run.")
@click.option(
    "--measures",
    metavar="NAME,...",
    help="See zoo evaluate --help. Measures that RUN/evaluation.json already has are not computed "
    "again; without this option, all of them are shown.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown"]),
    default="text",
    show_default=True,
    help="The format of the table.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.option(
    "--figures/--no-figures", default=True, show_default=True, help="Whether to draw pictures."
)
@click.option(
    "--decoders/--no-decoders",
    default=True,
    show_default=True,
    help="Whether to train a decoder for each encoder without one, for the pictures. Takes about a "
    "minute each on a CPU, once.",
)
@skipping_options
def compare(
    runs: tuple[Path, ...],
    out: Path,
    data: str | None,
    measures: str | None,
    form: Literal["text", "markdown"],
    as_json: bool,
    figures: bool,
    decoders: bool,
    max_skipped: float,
) -> None:
    """Compare RUNs with each other and with published results.

    There is one table per data set, with one row per method; runs that differ only in their seed
    share a row. Pictures go to --out: k-NN, content against style, reconstructions and spectra.
    """
    import json

    from repzoo_training.comparison import (
        Images,
        board_data,
        board_table,
        boards,
        draw,
        folder_names,
        measure_runs,
    )

    images = Images(data, max_skipped=max_skipped)
    found = boards(measure_runs(runs, images, chosen_measures(measures)))
    if as_json:
        click.echo(json.dumps([board_data(board) for board in found], indent=2))
    else:
        width = terminal_width()
        click.echo("\n".join(board_table(board, form, width) for board in found), nl=False)
    if figures:
        for board, name in zip(found, folder_names(found), strict=True):
            drawn = draw(board, images, out / name, decoders=decoders)
            click.echo(f"drawn: {', '.join(map(str, drawn))}", err=True)
    exit_if_skipped(*images.read)
