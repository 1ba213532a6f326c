"""``zoo export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from repzoo.commands.arguments import skipping_options

from repzoo_training.commands.options import (
    chosen_measures,
    exit_if_skipped,
    load_train_and_test,
    next_steps,
    warn_of_shared_images,
)

if TYPE_CHECKING:
    from repzoo.packages.config import Precision

__all__ = ["export"]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--data", metavar="SOURCE", help="Defaults to the run's training data.")
@click.option("--name", help="The name of the model. Defaults to the name of the recipe.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="float16 halves the size without loss of accuracy. int8 quarters the size of the encoder "
    "and makes it two to four times as fast; embeddings change by 1 to 6 % of their spread.",
)
@click.option(
    "--decoder",
    is_flag=True,
    help="Train a decoder on the frozen encoder, for a method without one. Takes about a minute.",
)
@click.option(
    "--measures", metavar="NAME,...", help="The measures on the card; see zoo evaluate --help."
)
@skipping_options
def export(
    run: Path,
    out: Path,
    data: str | None,
    name: str | None,
    precision: Precision,
    decoder: bool,
    measures: str | None,
    max_skipped: float,
) -> None:
    """Write the model package of RUN to the folder DIR: graphs, probes, measurements, card."""
    from repzoo_training.data import absolute
    from repzoo_training.evaluation import DEFAULT_GROUPS
    from repzoo_training.export import export_run
    from repzoo_training.run import Run

    record = Run(run).read_record()
    if record is None:
        raise click.UsageError(f"{run} holds no run: it has no run.json")
    train_set, test_set = load_train_and_test(data or record.source, record.input, max_skipped)
    config = export_run(
        run,
        out,
        train_set,
        test_set,
        name=name,
        precision=precision,
        decoder=decoder,
        measures=chosen_measures(measures) or DEFAULT_GROUPS,
    )
    click.echo(f"exported: {out} ({config.name}, {config.precision})")
    warn_of_shared_images(absolute(data or record.source), record.recipe)
    next_steps(("zoo", "verify", out), ("zoo", "serve", "--models", out))
    exit_if_skipped(train_set, test_set)
