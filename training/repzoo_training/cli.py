"""``zoo`` train, evaluate, export, calibrate, compare; heavy imports wait for their use."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from repzoo.packages.config import Precision

    from repzoo_training.data import ImageDataset
    from repzoo_training.evaluation import EvaluationReport
    from repzoo_training.uncertainty import UncertaintyReport

__all__ = ["calibrate", "compare", "evaluate", "export", "train"]


class Duration(click.ParamType[float]):
    """``90s``, ``2m``, ``1h30m`` or plain seconds, as seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", value.strip())
        seconds = 0.0
        if match:
            hours, minutes, rest = (float(group or 0) for group in match.groups())
            seconds = 3600 * hours + 60 * minutes + rest
        if not seconds > 0:
            self.fail(f"{value!r} is no duration; write 90s, 2m or 1h30m", param, ctx)
        return seconds


@click.command(epilog="Example: zoo train simvae-mnist --data mnist --out runs/mnist")
@click.argument("recipe", required=False)
@click.option("--list", "list_them", is_flag=True, help="List the recipes and end.")
@click.option(
    "--data",
    metavar="SOURCE",
    help="A data set by name (mnist, fashion-mnist, cifar10: downloaded), a folder of parquet "
    "files, or a folder of images.",
)
@click.option("--out", metavar="RUN", type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--budget", type=Duration(), help="Time to train for, such as 2m; measured once.")
@click.option("--views", type=click.IntRange(1), help="Views to train on.")
@click.option("--seed", type=click.IntRange(0), help="Seed of everything random.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="By default CUDA if there is.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; by default all cores.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the step; meant for GPUs.")
@click.option(
    "--checkpoint", type=Duration(), default="60s", show_default=True, help="Time between saves."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe.")
def train(
    recipe: str | None,
    list_them: bool,
    data: str | None,
    out: Path | None,
    budget: float | None,
    views: int | None,
    seed: int | None,
    device: str | None,
    threads: int | None,
    compiled: bool,
    checkpoint: float,
    settings: tuple[str, ...],
) -> None:
    """Train the encoder of RECIPE on unlabelled images.

    An interrupted run goes on where it stopped when the same command is given again. Several
    processes, on a GPU each, train together as: torchrun --nproc-per-node N -m repzoo_training ...
    """
    from repzoo_training.recipes.recipe import override
    from repzoo_training.recipes.registry import find_recipe, list_recipes

    if list_them:
        from repzoo_training.results.reached import expectation

        for each in list_recipes():
            click.echo(f"{each.name}\n    {each.summary}: {expectation(each)}")
        return
    if recipe is None or data is None or out is None:
        raise click.UsageError("RECIPE, --data and --out are needed (or --list)")
    if budget is not None and views is not None:
        raise click.UsageError("--budget and --views exclude each other")

    import torch
    from repzoo.errors import RepzooError

    from repzoo_training.data import absolute, load
    from repzoo_training.distributed.gather import rank
    from repzoo_training.loop.parallel import first_then_all, local_device, processes
    from repzoo_training.loop.trainer import train as run_training

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch finds no CUDA device here")
    extra = [
        f"{key}={value}" for key, value in (("views", views), ("seed", seed)) if value is not None
    ]
    settled = override(find_recipe(recipe), (*settings, *extra))
    here = local_device(device)
    with processes(here):
        dataset = first_then_all(
            lambda: load(data, "train", size=settled.input, progress=rank() == 0)
        )
        try:
            run = run_training(
                settled,
                dataset,
                out,
                source=absolute(data),
                budget_seconds=budget,
                device=here,
                checkpoint_seconds=checkpoint,
                compiled=compiled,
            )
        except RepzooError:
            if rank() == 0:
                raise
            sys.exit(1)  # the first process tells what all of them met
        if rank() == 0:
            click.echo(f"trained: {run.path} (pictures in {run.figures})")
            click.echo(f"next: zoo evaluate {run.path}, zoo export {run.path} --out PACKAGE")


@click.command()
@click.argument("model", metavar="RUN|PACKAGE")
@click.option("--data", metavar="SOURCE", help="By default, of a run, what it was trained on.")
@click.option(
    "--measures",
    metavar="NAME,...",
    help="Of knn, linear, mlp, clustering, reconstruction, style (by default these) and decoder, "
    "fid, inception (minutes on a CPU).",
)
@click.option(
    "--inception",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Weights of torchvision's Inception-v3, for the measure of this name.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the report as JSON there.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--uncertainty",
    is_flag=True,
    help="Measure the uncertainty of a PACKAGE instead, beside simpler scores.",
)
@click.option(
    "--outside",
    multiple=True,
    metavar="SOURCE",
    help="Other images, to be told from the data's. May be given again.",
)
@click.option(
    "--figure", type=click.Path(path_type=Path), help="With --uncertainty: draw it there, as PNG."
)
@click.option(
    "--recipe",
    help="With --uncertainty of another image: whose views it was calibrated with. By default the "
    "package's own.",
)
def evaluate(
    model: str,
    data: str | None,
    measures: str | None,
    inception: Path | None,
    out: Path | None,
    as_json: bool,
    uncertainty: bool,
    outside: tuple[str, ...],
    figure: Path | None,
    recipe: str | None,
) -> None:
    """Measure the representation of a run or package: k-NN, probes, clusters, style, pixels.

    PACKAGE is a folder, or the name of a model in the zoo. The numbers of a run are kept in
    RUN/evaluation.json; what it has of the same checkpoint and images is not computed again.
    """
    import repzoo

    from repzoo_training.data import load
    from repzoo_training.evaluation import DEFAULT_GROUPS, evaluate_dataset, evaluate_run
    from repzoo_training.evaluation.protocol import check_groups

    if (outside or figure or recipe) and not uncertainty:
        raise click.UsageError("--outside, --figure and --recipe go with --uncertainty")
    groups = DEFAULT_GROUPS if measures is None else check_groups(measures.split(","))
    report: EvaluationReport | UncertaintyReport
    if (Path(model) / "run.json").exists():
        if uncertainty:
            raise click.UsageError("--uncertainty measures a package: zoo export the run first")
        report = evaluate_run(model, data, groups, inception=inception)
    else:
        encoder = repzoo.load(model)
        if not data:
            raise click.UsageError("--data is needed: the images to measure on")
        size = encoder.config.input.shape
        train_set, test_set = (load(data, split, size=size) for split in ("train", "test"))
        if uncertainty:
            from repzoo_training.recipes.registry import find_recipe
            from repzoo_training.uncertainty import is_of_views, measure_uncertainty

            others, views = _outside(outside, size), None
            if is_of_views(encoder, train_set, test_set):
                views = find_recipe(recipe or encoder.config.training.recipe).augmentation
            report = measure_uncertainty(encoder, train_set, test_set, others, views=views)
            if figure is not None:
                from repzoo_training.uncertainty.figures import uncertainty_figure

                figure.write_bytes(uncertainty_figure(report))
        else:
            report = evaluate_dataset(
                encoder, train_set, test_set, measures=groups, inception=inception
            ).report
    if out is not None:
        out.write_text(report.model_dump_json(indent=2) + "\n")
    click.echo(report.model_dump_json(indent=2) if as_json else report.table())


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--data", metavar="SOURCE", help="By default what the run was trained on.")
@click.option("--name", help="Of the model; by default the recipe's.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="float16: half the size, and as good. int8: an encoder of a quarter of the size, two to "
    "four times as fast, its embeddings off by one to six per cent of their spread.",
)
@click.option(
    "--decoder",
    is_flag=True,
    help="Train a decoder on the frozen encoder, for a method without one: about a minute.",
)
@click.option(
    "--measures", metavar="NAME,...", help="What the card has numbers of, as of zoo evaluate."
)
def export(
    run: Path,
    out: Path,
    data: str | None,
    name: str | None,
    precision: Precision,
    decoder: bool,
    measures: str | None,
) -> None:
    """Write the model package of RUN to the folder DIR: graphs, probes, numbers, card."""
    from repzoo_training.data import load
    from repzoo_training.errors import DataError
    from repzoo_training.evaluation import DEFAULT_GROUPS
    from repzoo_training.evaluation.protocol import check_groups
    from repzoo_training.export import export_run
    from repzoo_training.run import Run

    record = Run(run).read_record()
    if record is None:
        raise click.UsageError(f"{run} holds no run: no run.json")
    source = data or record.source
    train_set = load(source, "train", size=record.recipe.input)
    try:
        test_set = load(source, "test", size=record.recipe.input)
    except DataError as error:
        click.echo(f"no test split, so the card has no numbers: {error}", err=True)
        test_set = None
    config = export_run(
        run,
        out,
        train_set,
        test_set,
        name=name,
        precision=precision,
        decoder=decoder,
        measures=DEFAULT_GROUPS if measures is None else check_groups(measures.split(",")),
    )
    click.echo(f"exported: {out} ({config.name}, {config.precision})")
    click.echo(f"next: zoo verify {out}, zoo publish {out} --hub HUB")


@click.command(epilog="Example: zoo calibrate simvae-mnist --data mnist --out packages/mine")
@click.argument("package", metavar="PACKAGE")
@click.option(
    "--data",
    metavar="SOURCE",
    required=True,
    help="The gallery: what the encoder was trained on, or your own images. Its test split, where "
    "it has one, is what the card's numbers are measured on.",
)
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--recipe", help="Whose views make harder queries. By default the package's own.")
@click.option(
    "--outside",
    multiple=True,
    metavar="SOURCE",
    help="Other images, to be told from the data's on the card. May be given again.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def calibrate(
    package: str, data: str, out: Path, recipe: str | None, outside: tuple[str, ...], seed: int
) -> None:
    """Write a copy of PACKAGE with a calibrated uncertainty to DIR.

    It is the probability that the nearest neighbour in the gallery has another label; without
    labels, that among views of the gallery's images it shows another image than the query.
    """
    from repzoo.loading import find

    from repzoo_training.data import load
    from repzoo_training.errors import DataError
    from repzoo_training.recipes.registry import find_recipe
    from repzoo_training.uncertainty.package import calibrate_package

    found = find(package)
    config, size = found.config, found.config.input.shape
    views = find_recipe(recipe or config.training.recipe).augmentation
    train_set = load(data, "train", size=size)
    try:
        test_set = load(data, "test", size=size)
    except DataError as error:
        click.echo(f"no test split, so the card has no numbers: {error}", err=True)
        test_set = None
    _, report = calibrate_package(
        found, out, train_set, test_set, views, outside=_outside(outside, size), seed=seed
    )
    if report is not None:
        click.echo(report.table())
    click.echo(f"calibrated: {out} ({config.name})")
    click.echo(f"next: zoo verify {out}, zoo publish {out} --hub HUB")


def _outside(sources: tuple[str, ...], size: tuple[int, int, int]) -> dict[str, ImageDataset]:
    """The test images of other sources, by their name."""
    from repzoo_training.data import load

    sets = [load(source, "test", size=size) for source in sources]
    return {dataset.name: dataset for dataset in sets}


@click.command(epilog="Example: zoo compare runs/* --format markdown --no-figures")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("comparison"),
    show_default=True,
    help="The pictures' folder; a folder for each data set where there are several.",
)
@click.option("--data", metavar="SOURCE", help="By default what each run was trained on.")
@click.option(
    "--measures",
    metavar="NAME,...",
    help="As of zoo evaluate; what RUN/evaluation.json has is not computed again.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown"]),
    default="text",
    show_default=True,
    help="Of the table.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.option("--figures/--no-figures", default=True, show_default=True, help="Draw the pictures.")
@click.option(
    "--decoders/--no-decoders",
    default=True,
    show_default=True,
    help="For the pictures, train a decoder on each encoder without one: about a minute each on a "
    "CPU, once.",
)
def compare(
    runs: tuple[Path, ...],
    out: Path,
    data: str | None,
    measures: str | None,
    form: Literal["text", "markdown"],
    as_json: bool,
    figures: bool,
    decoders: bool,
) -> None:
    """Set RUNs beside each other, and beside what has been published.

    A table for each data set, with a row for each method; runs that differ in nothing but their
    seed are one row. Pictures go to --out: k-NN, content against style, reconstructions, spectra.
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
    from repzoo_training.evaluation import DEFAULT_GROUPS
    from repzoo_training.evaluation.protocol import check_groups

    groups = DEFAULT_GROUPS if measures is None else check_groups(measures.split(","))
    images = Images(data)
    found = boards(measure_runs(runs, images, groups))
    if as_json:
        click.echo(json.dumps([board_data(board) for board in found], indent=2))
    else:
        click.echo("\n".join(board_table(board, form) for board in found), nl=False)
    if not figures:
        return
    for board, name in zip(found, folder_names(found), strict=True):
        drawn = draw(board, images, out / name, decoders=decoders)
        click.echo(f"drawn: {', '.join(map(str, drawn))}", err=True)
