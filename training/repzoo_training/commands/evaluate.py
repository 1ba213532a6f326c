"""``zoo evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from repzoo.commands.arguments import hub_option, skipping_options
from repzoo.report import terminal_width

from repzoo_training.commands.options import (
    chosen_measures,
    exit_if_skipped,
    load_outside,
    split_option,
)

if TYPE_CHECKING:
    from repzoo_training.evaluation import EvaluationReport
    from repzoo_training.uncertainty import UncertaintyReport

__all__ = ["evaluate"]


@click.command()
@click.argument("model", metavar="RUN|PACKAGE")
@click.option(
    "--data", metavar="SOURCE", help="Images to measure on. Defaults to a run's training data."
)
@split_option
@click.option(
    "--measures",
    metavar="NAME,...",
    help="A comma-separated list. The default is knn, linear, mlp, clustering, reconstruction and "
    "style; there is also invariance, and decoder, fid and inception, which take minutes on a CPU.",
)
@click.option(
    "--inception",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The weights of torchvision's Inception-v3, for the measure inception.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the report to this file, as JSON."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--uncertainty",
    is_flag=True,
    help="Measure the uncertainty of a PACKAGE instead, compared with simpler scores.",
)
@click.option(
    "--outside",
    multiple=True,
    metavar="SOURCE",
    help="With --uncertainty: out-of-distribution images to detect. Can be repeated.",
)
@click.option(
    "--figure", type=click.Path(path_type=Path), help="With --uncertainty: write a plot, as PNG."
)
@click.option(
    "--recipe",
    help="With --uncertainty: the recipe (or FILE.py) whose views the package was calibrated with. "
    "Defaults to the package's own recipe.",
)
@hub_option
@skipping_options
def evaluate(
    model: str,
    data: str | None,
    split: str | None,
    measures: str | None,
    inception: Path | None,
    out: Path | None,
    as_json: bool,
    uncertainty: bool,
    outside: tuple[str, ...],
    figure: Path | None,
    recipe: str | None,
    hub_spec: str | None,
    max_skipped: float,
) -> None:
    """Measure the representation of a run or package: k-NN, probes, clusters, style, pixels.

    PACKAGE is a folder, or the name of a model in the zoo. The measures of a run are kept in
    RUN/evaluation.json and are not computed again for the same checkpoint and images. Without
    --measures, those that were measured before are shown too.
    """
    import repzoo

    from repzoo_training.data import load_splits, with_split
    from repzoo_training.evaluation import DEFAULT_GROUPS, evaluate_dataset, evaluate_run
    from repzoo_training.run import run_in

    if (outside or figure or recipe) and not uncertainty:
        raise click.UsageError("--outside, --figure and --recipe need --uncertainty")
    groups = chosen_measures(measures)
    report: EvaluationReport | UncertaintyReport
    run = run_in(model, hub_spec)
    record = None if run is None else run.read_record()
    if record is not None:
        if uncertainty:
            raise click.UsageError("--uncertainty needs a package: run `zoo export` first")
        if split:
            raise click.UsageError(
                "--split needs a package: a run is measured on the images that it held out"
            )
        if hub_spec is not None:
            raise click.UsageError("--hub needs the name of a package")
        splits = load_splits(data or record.source, size=record.input, max_skipped=max_skipped)
        report = evaluate_run(model, splits, groups, inception=inception)
    else:
        encoder = repzoo.load(model, hub=hub_spec)
        if not data:
            raise click.UsageError("--data is required: the images to measure on")
        size = encoder.config.input
        splits = load_splits(with_split(data, split), size=size, max_skipped=max_skipped)
        if uncertainty:
            from repzoo_training.importing.views import views_of
            from repzoo_training.uncertainty import is_of_views, measure_uncertainty

            others, views = load_outside(outside, size, max_skipped), None
            if is_of_views(encoder, *splits):
                views = views_of(encoder.config, recipe)
            report = measure_uncertainty(encoder, *splits, others, views=views)
            if figure is not None:
                from repzoo_training.uncertainty.figures import uncertainty_figure

                figure.write_bytes(uncertainty_figure(report))
        else:
            report = evaluate_dataset(
                encoder, *splits, measures=groups or DEFAULT_GROUPS, inception=inception
            ).report
    if out is not None:
        out.write_text(report.model_dump_json(indent=2) + "\n")
    click.echo(report.model_dump_json(indent=2) if as_json else report.table(terminal_width()))
    exit_if_skipped(*splits)
