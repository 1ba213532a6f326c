"""``zoo train``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from repzoo_training.commands.options import Duration

__all__ = ["train"]


@click.command(epilog="Example: zoo train simvae-mnist --data mnist --out runs/mnist")
@click.argument("recipe", required=False)
@click.option("--list", "list_them", is_flag=True, help="List all recipes and exit.")
@click.option(
    "--data",
    metavar="SOURCE",
    help="A data set by name (mnist, fashion-mnist or cifar10, downloaded on first use), a folder "
    "of parquet files, or a folder of images.",
)
@click.option("--out", metavar="RUN", type=click.Path(path_type=Path), help="The run folder.")
@click.option(
    "--budget",
    type=Duration(),
    help="Training time, such as 2m. Converted to a number of views once, when the run starts.",
)
@click.option("--views", type=click.IntRange(1), help="The number of views to train on.")
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
    help="Override a setting of the recipe. Can be repeated.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse images that cannot be read, instead of skipping up to 5 % of them.",
)
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
    strict: bool,
) -> None:
    """Train the encoder of RECIPE on unlabelled images.

    To resume an interrupted run, repeat the command. To train on several GPUs, start one process
    per GPU: torchrun --nproc-per-node N -m repzoo_training ...
    """
    from repzoo_training.recipes.recipe import override
    from repzoo_training.recipes.registry import find_recipe, list_recipes

    if list_them:
        from repzoo_training.results.reached import expectation

        for each in list_recipes():
            click.echo(f"{each.name}\n    {each.summary}\n    {expectation(each)}")
        return
    if recipe is None or data is None or out is None:
        raise click.UsageError("RECIPE, --data and --out are required (or --list)")
    if budget is not None and views is not None:
        raise click.UsageError("--budget and --views cannot be used together")

    import torch
    from repzoo.errors import RepzooError

    from repzoo_training.data import absolute, load
    from repzoo_training.distributed.gather import rank
    from repzoo_training.loop.parallel import first_then_all, local_device, processes
    from repzoo_training.loop.trainer import train as run_training

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch cannot find a CUDA device on this machine")
    extra = [
        f"{key}={value}" for key, value in (("views", views), ("seed", seed)) if value is not None
    ]
    settled = override(find_recipe(recipe), (*settings, *extra))
    source = absolute(data)
    here = local_device(device)
    with processes(here):
        dataset = first_then_all(
            lambda: load(data, "train", size=settled.input, strict=strict, progress=rank() == 0)
        )
        if rank() == 0:
            click.echo(dataset.summary(), err=True)
        try:
            run = run_training(
                settled,
                dataset,
                out,
                source=source,
                budget_seconds=budget,
                device=here,
                checkpoint_seconds=checkpoint,
                compiled=compiled,
            )
        except RepzooError:
            if rank() == 0:
                raise
            sys.exit(1)  # all processes see the same error, and the first one reports it
        if rank() == 0:
            click.echo(f"trained: {run.path} (pictures in {run.figures})")
            click.echo(f"next: zoo evaluate {run.path}, zoo export {run.path} --out PACKAGE")
