"""``zoo calibrate``."""

from __future__ import annotations

from pathlib import Path

import click

from repzoo_training.commands.options import load_outside, load_train_and_test

__all__ = ["calibrate"]


@click.command(epilog="Example: zoo calibrate simvae-mnist --data mnist --out packages/mine")
@click.argument("package", metavar="PACKAGE")
@click.option(
    "--data",
    metavar="SOURCE",
    required=True,
    help="The gallery: the encoder's training data, or your own images. If it has a test split, "
    "the card's measurements are taken on that.",
)
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option(
    "--recipe",
    help="The recipe whose views make harder queries. Defaults to the package's own recipe.",
)
@click.option(
    "--outside",
    multiple=True,
    metavar="SOURCE",
    help="Out-of-distribution images; the card says how well they are detected. Can be repeated.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def calibrate(
    package: str, data: str, out: Path, recipe: str | None, outside: tuple[str, ...], seed: int
) -> None:
    """Write a copy of PACKAGE with a calibrated uncertainty to DIR.

    The uncertainty is the probability that the nearest neighbour in the gallery has another label.
    Without labels, the gallery holds views of images, and the uncertainty is the probability that
    the nearest view shows another image than the query.
    """
    from repzoo.loading import find

    from repzoo_training.recipes.registry import find_recipe
    from repzoo_training.export.calibration import calibrate_package

    found = find(package)
    config, size = found.config, found.config.input.shape
    views = find_recipe(recipe or config.facts.recipe).augmentation
    train_set, test_set = load_train_and_test(data, size)
    _, report = calibrate_package(
        found, out, train_set, test_set, views, outside=load_outside(outside, size), seed=seed
    )
    if report is not None:
        click.echo(report.table())
    click.echo(f"calibrated: {out} ({config.name})")
    click.echo(f"next: zoo verify {out}, zoo publish {out} --hub HUB")
