"""``zoo probe``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from repzoo.commands.arguments import hub_option, skipping_options

from repzoo_training.commands.options import exit_if_skipped, next_steps, split_option

if TYPE_CHECKING:
    from repzoo_training.data import ImageDataset

__all__ = ["probe"]


@click.group()
def probe() -> None:
    """Fit classifiers to your own labels."""


@probe.command(
    epilog="Example: zoo probe fit simvae-mnist --data photos --task animal --out packages/animals"
)
@click.argument("package", metavar="PACKAGE")
@click.option(
    "--data",
    metavar="SOURCE",
    required=True,
    help="Labelled images: a folder with a subfolder per class, a folder of parquet files, or a "
    "data set by name.",
)
@click.option("--task", required=True, help="The name of the task, by which /probe finds it.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--name", help="The name of the new package. Defaults to that of PACKAGE.")
@click.option(
    "--labels",
    metavar="FILE.csv",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The labels of the images in a folder: the column of the image's path, then one column "
    "with its class, or several columns with 1 or 0 for a multi-label task.",
)
@click.option(
    "--multi-label",
    is_flag=True,
    help="Use the bool columns of parquet files, also if there are classes.",
)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(["linear", "mlp"]),
    multiple=True,
    help="Can be repeated.  [default: linear]",
)
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    default=5,
    show_default=True,
    help="The number of parts for cross-validation.",
)
@click.option(
    "--group-by",
    metavar="COLUMN",
    help="Never predict an image by others of its group: 'folder' for the folder of an image file, "
    "such as a burst of photos below the folder of their class, or a column of parquet files.",
)
@split_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@hub_option
@skipping_options
def fit(
    package: str,
    data: str,
    task: str,
    out: Path,
    name: str | None,
    labels: Path | None,
    multi_label: bool,
    kinds: tuple[str, ...],
    folds: int,
    group_by: str | None,
    split: str | None,
    seed: int,
    hub_spec: str | None,
    max_skipped: float,
) -> None:
    """Write a copy of PACKAGE with a classifier for your own labels to DIR.

    The encoder stays as it is. Each image is predicted by a probe that was fitted without it, which
    gives the accuracy, the numbers per class and the confusion matrix on the card. The probe that
    is stored is fitted to all images. If SOURCE has a test split, it is also measured on that.
    """
    from repzoo.loading import find
    from repzoo.packages.reference import is_name
    from repzoo.runtime.encoder import Encoder

    from repzoo_training.data import load, load_with_test, with_split
    from repzoo_training.evaluation.representation import represent
    from repzoo_training.export.own_probes import add_probes, check_task
    from repzoo_training.probing.cross_validation import cross_validate
    from repzoo_training.probing.labels import answers_of, read_labels

    if not is_name(task):
        raise click.BadParameter(
            f"{task!r} cannot name a task: use a-z and 0-9, with . _ - in between",
            param_hint="--task",
        )
    if labels is not None and (multi_label or split is not None):
        raise click.UsageError("--labels cannot be used with --multi-label or --split")
    if out.exists():
        raise click.UsageError(f"{out} exists already: remove it or choose another --out")
    found = find(package, hub=hub_spec)
    check_task(found.config, task)
    source = with_split(data, split)
    size = found.config.input
    held_out: ImageDataset | None = None
    if labels is None:
        dataset, held_out = load_with_test(
            source, size=size, max_skipped=max_skipped, group_by=group_by
        )
    else:
        dataset = load(source, size=size, max_skipped=max_skipped, group_by=group_by)
    click.echo(dataset.summary(), err=True)
    answers = (
        answers_of(dataset, multi_label=multi_label)
        if labels is None
        else read_labels(labels, Path(data), dataset)
    )
    if missing := int((~answers.rows).sum()):
        click.echo(f"{missing:,} images have no row in {labels}, and are not used", err=True)
    encoder = Encoder(found.path, found.config)
    embeddings = represent(encoder, dataset.images)
    test = None
    if held_out is not None:
        truth = held_out.attributes if answers.multi_label else held_out.labels
        if truth is not None:
            test = represent(encoder, held_out.images), truth
    fitted = [
        cross_validate(
            embeddings, dataset, answers, task=task, kind=kind, folds=folds, test=test, seed=seed
        )
        for kind in dict.fromkeys(kinds or ("linear",))
    ]
    config = add_probes(found, out, fitted, dataset.images[:64], name=name)
    click.echo("\n\n".join(each.report.table() for each in fitted))
    click.echo(f"fitted: {out} ({config.name}, task {task})")
    next_steps(("zoo", "verify", out), ("zoo", "serve", "--models", out))
    exit_if_skipped(dataset, held_out)
