"""``zoo calibrate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from repzoo.commands.arguments import hub_option, skipping_options
from repzoo.report import terminal_width

from repzoo_training.commands.options import (
    exit_if_skipped,
    load_outside,
    load_train_and_test,
    next_steps,
    split_option,
)

if TYPE_CHECKING:
    from repzoo_training.degradations import Degradation

__all__ = ["calibrate"]


@click.command(epilog="Example: zoo calibrate simvae-mnist --data mnist --out packages/mine")
@click.argument("package", metavar="PACKAGE")
@click.option(
    "--data",
    metavar="SOURCE",
    required=True,
    help="The gallery: the encoder's training data, or your own images. If it has a test split, "
    "the card's measurements use it.",
)
@split_option
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--name", help="The name of the new package. Defaults to that of PACKAGE.")
@click.option(
    "--recipe",
    help="The recipe (or FILE.py) whose views make harder queries. Defaults to the package's own "
    "recipe, or to crops, flips and colours for an imported model.",
)
@click.option(
    "--outside",
    multiple=True,
    metavar="SOURCE",
    help="Out-of-distribution images; the card says how well they are detected. Can be repeated.",
)
@click.option(
    "--degrade",
    metavar="KINDS",
    help="Also fit a content posterior, which undoes degradations: 'all', or some of "
    "gaussian-blur, box-blur, noise, occlusion, crop, contrast, brightness, shift, small-rotation, "
    "separated by commas.",
)
@click.option(
    "--copies",
    type=click.IntRange(1),
    help="With --degrade: degraded copies that the content posterior is fitted to, each of which "
    "is encoded twice. Defaults to 400,000; fewer suit large models on a CPU.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@hub_option
@skipping_options
def calibrate(
    package: str,
    data: str,
    split: str | None,
    out: Path,
    name: str | None,
    recipe: str | None,
    outside: tuple[str, ...],
    degrade: str | None,
    copies: int | None,
    seed: int,
    hub_spec: str | None,
    max_skipped: float,
) -> None:
    """Write a copy of PACKAGE with a calibrated uncertainty, measurements and a new card to DIR.

    The uncertainty is the probability that the nearest neighbour in the gallery has another label.
    Without labels, it is the probability that the undegraded picture has other nearest neighbours
    (with --degrade), or that the nearest of one view per image shows another image than the query.
    """
    from repzoo.loading import find

    from repzoo_training.content.report import ContentReport
    from repzoo_training.data import with_split
    from repzoo_training.export.calibration import calibrate_package
    from repzoo_training.importing.views import views_of
    from repzoo_training.uncertainty import UncertaintyReport

    if copies is not None and degrade is None:
        raise click.UsageError("--copies needs --degrade")
    found = find(package, hub=hub_spec)
    size = found.config.input
    views = views_of(found.config, recipe)
    train_set, test_set = load_train_and_test(with_split(data, split), size, max_skipped)
    config, *reports = calibrate_package(
        found,
        out,
        train_set,
        test_set,
        views,
        outside=load_outside(outside, size, max_skipped),
        degrade=_kinds(degrade),
        copies=copies,
        name=name,
        seed=seed,
    )
    for report in reports:
        if report is not None:
            if isinstance(report, UncertaintyReport):
                click.echo(report.table(terminal_width()))
            else:
                click.echo(report.table())
        if isinstance(report, ContentReport) and report.recovered["fit"].low <= 0:
            click.echo(
                "zoo: the content posterior does not recover a measurable share of what the "
                "fitted degradations cost: use more images, more --copies or other kinds",
                err=True,
            )
    click.echo(f"calibrated: {out} ({config.name})")
    next_steps(("zoo", "verify", out), ("zoo", "serve", "--models", out))
    exit_if_skipped(train_set, test_set)


def _kinds(names: str | None) -> Mapping[str, Degradation] | None:
    from repzoo_training.degradations import FIT

    if names is None or names == "all":
        return None if names is None else FIT
    chosen = [name.strip() for name in names.split(",")]
    unknown = [name for name in chosen if name not in FIT]
    if unknown:
        raise click.BadParameter(
            f"unknown kind {unknown[0]!r}; known are {', '.join(FIT)}", param_hint="--degrade"
        )
    if len({*chosen}) < len(chosen):
        raise click.BadParameter(f"{names}: a kind is named twice", param_hint="--degrade")
    return {name: FIT[name] for name in chosen}
