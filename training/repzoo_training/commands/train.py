"""``zoo train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from repzoo.bulk.skipping import LISTED
from repzoo.commands.arguments import skipping_options
from repzoo.report import SOME_FAILED

from repzoo_training.commands.options import (
    Duration,
    next_steps,
    split_option,
    warn_of_shared_images,
)

__all__ = ["train"]


@click.command(epilog="Example: zoo train simvae-mnist --data mnist --out runs/mnist")
@click.argument("recipe", required=False)
@click.option(
    "--list",
    "list_them",
    is_flag=True,
    help="List the recipes and exit; with --data, --method or --device cpu, those that fit.",
)
@click.option("--method", metavar="NAME", help="With --list: recipes of this method.")
@click.option("--show", is_flag=True, help="Print every setting of RECIPE and exit.")
@click.option(
    "--data",
    metavar="SOURCE",
    help="A data set by name (mnist, fashion-mnist or cifar10, downloaded on first use), a folder "
    "of parquet files, or a folder of images.",
)
@split_option
@click.option("--out", metavar="RUN", type=click.Path(path_type=Path), help="The run folder.")
@click.option(
    "--from",
    "start_source",
    metavar="PACKAGE|RUN",
    help="Start from the weights of a package or a run with the same network.",
)
@click.option(
    "--hub",
    "hub_spec",
    metavar="HUB",
    help="With --from: the hub of the package; see zoo pull --help.",
)
@click.option(
    "--budget",
    type=Duration(),
    help="Training time, such as 2m. Converted to a number of views once, when the run starts.",
)
@click.option(
    "--views",
    type=click.IntRange(1),
    help="The number of views to train on. A larger number extends a finished run.",
)
@click.option("--seed", type=click.IntRange(0), help="The seed for all randomness.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Defaults to CUDA if it is available.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="The number of CPU threads. Defaults to all cores."
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the training step, for GPUs.")
@click.option(
    "--checkpoint",
    type=Duration(),
    default="60s",
    show_default=True,
    help="The time between checkpoints.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting of the recipe; see RECIPE --show. Can be repeated.",
)
@click.option(
    "--group-by",
    metavar="COLUMN",
    help="Images of one group are views of one thing: 'folder' for the folder of an image file, or "
    "a column of parquet files.",
)
@click.option(
    "--track",
    "tracked",
    type=click.Choice(["tensorboard", "wandb", "mlflow"]),
    multiple=True,
    help="Also send the reports to TensorBoard (RUN/tensorboard), Weights & Biases or MLflow. Can "
    "be repeated.",
)
@skipping_options
def train(
    recipe: str | None,
    list_them: bool,
    method: str | None,
    show: bool,
    data: str | None,
    split: str | None,
    out: Path | None,
    start_source: str | None,
    hub_spec: str | None,
    budget: float | None,
    views: int | None,
    seed: int | None,
    device: str | None,
    threads: int | None,
    compiled: bool,
    checkpoint: float,
    settings: tuple[str, ...],
    group_by: str | None,
    tracked: tuple[str, ...],
    max_skipped: float,
) -> None:
    """Train the encoder of RECIPE on unlabelled images.

    RECIPE is a name, or a file of your own, FILE.py or FILE.py:NAME.

    To resume an interrupted run, repeat the command. To extend a finished one, repeat it with more
    --views: the learning rate warms up again and follows its schedule over the added views. To
    train on several GPUs, start one process per GPU: torchrun --nproc-per-node N -m
    repzoo_training ...

    Images of a test or validation split are never trained on. Images that cannot be read are
    skipped and listed in RUN/skipped.txt, and the exit status is 3. If they are more than
    --max-skipped, nothing is trained and the exit status is 1.
    """
    from repzoo_training.recipes.keys import keys
    from repzoo_training.recipes.recipe import override
    from repzoo_training.recipes.registry import find_recipe, list_recipes

    if list_them:
        from repzoo_training.commands.recipe_list import chosen, detailed, grouped

        recipes = chosen(list_recipes(), data, method, device)
        if not recipes:
            raise click.UsageError("no recipe is for this --data, --method and --device")
        some = data is not None or method is not None or device is not None
        click.echo(detailed(recipes) if some else grouped(recipes))
        return
    if method is not None:
        raise click.UsageError("--method is for --list; --set method=NAME changes a recipe")
    if show and recipe is not None:
        settled = override(find_recipe(recipe), settings)
        for key in keys(settled, settled.method):
            click.echo(f"{key.setting}\n    {key.meaning}")
        return
    if recipe is None or data is None or out is None:
        raise click.UsageError(
            "RECIPE, --data and --out are required (or --list, or RECIPE --show)"
        )
    if hub_spec is not None and start_source is None:
        raise click.UsageError("--hub needs --from")
    if budget is not None and views is not None:
        raise click.UsageError("--budget and --views cannot be used together")

    import torch
    from repzoo.errors import RepzooError

    from repzoo_training.data import absolute, has_test, load, with_split
    from repzoo_training.data.pixels import input_spec
    from repzoo_training.distributed.gather import rank, world_size
    from repzoo_training.loop.allocator import keep_freed_memory
    from repzoo_training.loop.parallel import first_then_all, local_device, processes
    from repzoo_training.loop.trainer import train as run_training
    from repzoo_training.pretrained.loading import start_from
    from repzoo_training.run import Run
    from repzoo_training.watching.trackers import TRACKERS

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch cannot find a CUDA device on this machine")
    extra = [
        f"{key}={json.dumps(value)}"
        for key, value in (("views", views), ("seed", seed), ("group_by", group_by))
        if value is not None
    ]
    settled = override(find_recipe(recipe), (*settings, *extra))
    source = absolute(with_split(data, split))
    stored = Run(out).read_record()
    size = input_spec(settled.input, "scaled" if stored is None else stored.jpeg)
    here = local_device(device)
    with processes(here):
        dataset = first_then_all(
            lambda: load(
                source,
                "train",
                size=size,
                max_skipped=max_skipped,
                progress=rank() == 0,
                group_by=settled.group_by,
            )
        )
        if rank() == 0:
            click.echo(dataset.summary(), err=True)
            warn_of_shared_images(source, settled)
        try:
            start = None
            if start_source is not None:
                start = first_then_all(
                    lambda: start_from(start_source, dataset, settled, hub=hub_spec)
                )
            run = run_training(
                settled,
                dataset,
                out,
                source=source,
                start=start,
                budget_seconds=budget,
                device=here,
                checkpoint_seconds=checkpoint,
                compiled=compiled,
                trackers=[TRACKERS[name]() for name in dict.fromkeys(tracked)],
            )
        except RepzooError:
            if rank() == 0:
                raise
            sys.exit(1)  # all processes see the same error, and the first one reports it
        if rank() == 0:
            click.echo(f"trained: {run.path} (pictures in {run.figures})")
            measured = has_test(source, dataset)
            if not measured:
                click.echo("without a test split, it cannot be measured; see --split")
            next_steps(
                *([("zoo", "evaluate", run.path)] if measured else []),
                ("zoo", "export", run.path, "--out", Path("packages", run.path.resolve().name)),
            )
            if len(dataset.skipped) > LISTED:
                click.echo(f"zoo: all images that cannot be read: {run.skipped_file}", err=True)
            # torchrun takes any other status than 0 for a failure of the process.
            if dataset.skipped and world_size() == 1:
                click.get_current_context().exit(SOME_FAILED)
