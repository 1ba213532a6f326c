"""The trainer, top to bottom: one function, :func:`train`, and what it is made of."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from repzoo_training.data import ImageDataset
from repzoo_training.distributed.gather import rank, world_size
from repzoo_training.errors import DataError, Diverged, RunError
from repzoo_training.loop.budget import measure_precision, views_in
from repzoo_training.loop.interruption import Stop
from repzoo_training.loop.parallel import (
    Pulse,
    from_first,
    local_device,
    mean_over_processes,
    processes,
)
from repzoo_training.loop.step import build_objective, check_shares, place, rehearse, take_step
from repzoo_training.optim.optimizers import build_optimizer, learning_rate
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.run import Checkpoint, Run, RunRecord
from repzoo_training.views.views import Views
from repzoo_training.watching.collapse import CollapseMonitor
from repzoo_training.watching.figures import Progress

__all__ = ["train"]

REPORTS = 200  # lines of metrics.jsonl in a whole run
FIGURES = 20  # times that the pictures are drawn


def train(
    recipe: Recipe,
    dataset: ImageDataset,
    out: str | Path,
    *,
    source: str = "",
    budget_seconds: float | None = None,
    device: torch.device | str | None = None,
    checkpoint_seconds: float = 60.0,
    compiled: bool = False,
    progress: bool = True,
) -> Run:
    """Train ``recipe`` on ``dataset`` in the folder ``out``, or go on where a run there stopped.

    A resumed run ends with the weights of an undisturbed one, bit for bit on the same device type,
    thread and process count and library versions. SIGTERM and Ctrl-C finish the step, save, and
    end the process with 143 or 130.

    Under ``torchrun`` every process calls this; each takes its share of every batch, and the first
    writes the run. All need the same images, and must see the folder ``out``.

    Args:
        recipe: what to train.
        dataset: uint8 images of the recipe's own size.
        out: the run's folder; made if missing.
        source: where the images come from, remembered for ``zoo export``.
        budget_seconds: instead of the recipe's ``views``, as many as fit this time. Measured once,
            when the run starts, and stored: the schedule never depends on the clock.
        device: ``cuda`` where there is one, else ``cpu``.
        checkpoint_seconds: time between checkpoints; it changes nothing else.
        compiled: compile the step; see :func:`repzoo_training.loop.step.place`.
        progress: show a bar on a terminal, and a line now and then elsewhere.

    Raises:
        DataError: if the images are not of the recipe's size.
        RecipeError: if a step's images cannot be shared out among the processes.
        RunError: if ``out`` holds a run of another recipe or data set, or is in use.
        Diverged: if the loss stops being finite.
    """
    device = local_device(device)
    if dataset.shape != recipe.input:
        raise DataError(
            f"{dataset.name} has images of {dataset.shape} (height, width, channels), "
            f"recipe {recipe.name} takes {recipe.input}"
        )
    run = Run(out)
    with processes(device), ExitStack() as held, deterministic(), Stop() as stop:
        check_shares(recipe)
        from_first(lambda: held.enter_context(run.locked()))
        record = from_first(run.read_record)
        if record is None:
            recipe = _settle(recipe, dataset, budget_seconds, device, compiled)
            record = RunRecord(
                recipe=recipe,
                source=source,
                dataset=dataset.name,
                dataset_sha256=dataset.sha256,
                dataset_images=len(dataset),
                device=device.type,
                device_name=_device_name(device),
                code_commit=_code_commit(),
            )
            if rank() == 0:
                run.start(record)
        else:
            _check_same(run, record, recipe, dataset, budget_seconds)
        _train(run, record.recipe, dataset, device, stop, checkpoint_seconds, compiled, progress)
    return run


def _train(
    run: Run,
    recipe: Recipe,
    dataset: ImageDataset,
    device: torch.device,
    stop: Stop,
    checkpoint_seconds: float,
    compiled: bool,
    progress: bool,
) -> None:
    objective = build_objective(recipe, len(dataset))
    model = place(recipe, objective, device, compiled=compiled)
    optimizer = build_optimizer(recipe, objective)
    writes = rank() == 0
    environment = _environment(device, compiled)
    first, spent = 0, 0.0
    if from_first(run.checkpoint_file.exists):
        checkpoint = run.load_weights(objective)
        run.load_optimizer(optimizer, checkpoint)
        first, spent = checkpoint.step, checkpoint.wall_seconds
        if writes:
            _warn_of_changes(checkpoint.environment, environment)
    if writes:
        run.rewind_metrics(first)

    images = torch.from_numpy(dataset.images).permute(0, 3, 1, 2).contiguous().to(device)
    make_views = Views(recipe.augmentation, recipe.image_shape[1:], device)
    if world_size() > 1:
        rehearse(model, images, make_views, recipe, first)
    pictures = Progress(run, recipe, images, make_views)
    pulse = Pulse(first)
    report_every = max(1, recipe.steps // REPORTS)
    draw_every = max(1, recipe.steps // FIGURES)
    monitor = CollapseMonitor(run, recipe, images, report_every)
    started = saved = time.monotonic()
    advice = (
        "the last checkpoint is from before. "
        f"Try a lower learning rate than {recipe.learning_rate:g}"
    )

    def save(step: int) -> None:
        if not all(parameter.isfinite().all() for parameter in objective.parameters()):
            raise Diverged(f"weights are no longer finite at step {step}; {advice}")
        if writes:
            run.save(
                Checkpoint(
                    step=step,
                    objective=objective.state_dict(),
                    optimizer=optimizer.state_dict(),
                    wall_seconds=spent + time.monotonic() - started,
                    environment=environment,
                )
            )
        from_first(lambda: None)  # the others wait until it is written

    bar = tqdm(
        total=recipe.steps * recipe.views_per_step,
        initial=first * recipe.views_per_step,
        unit=" views",
        unit_scale=True,
        desc=recipe.name,
        disable=None if progress and writes else True,
    )
    with bar:
        for step in range(first, recipe.steps):
            rate = learning_rate(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            terms = take_step(model, optimizer, images, make_views, recipe, step)
            bar.update(recipe.views_per_step)

            done = step + 1
            last = done == recipe.steps
            if done % report_every == 0 or last:
                values = mean_over_processes(terms)
                if not math.isfinite(values["loss"]):
                    raise Diverged(f"the loss is {values['loss']} at step {done}; {advice}")
                elapsed = time.monotonic() - started
                report = {
                    "step": done,
                    "views": done * recipe.views_per_step,
                    **values,
                    "learning_rate": rate,
                    "views_per_second": (done - first) * recipe.views_per_step / elapsed,
                    "wall_seconds": spent + elapsed,
                }
                if writes:
                    run.report(report | monitor.observe(objective, done))
                    monitor.draw(done)
                bar.set_postfix(loss=f"{values['loss']:.2f}")
            if writes and (done % draw_every == 0 or last):
                pictures.draw(objective)
                if progress and bar.disable:
                    print(_progress_line(recipe, first, done, started, terms), file=sys.stderr)
            due = time.monotonic() - saved > checkpoint_seconds
            signal, due = pulse(done, stop.requested, due)
            if last or signal or due:
                save(done)
                saved = time.monotonic()
            if signal and not last:
                bar.close()
                stop.exit(
                    signal, f"saved at step {done} of {recipe.steps}; the same command goes on"
                )


def _progress_line(
    recipe: Recipe, first: int, done: int, started: float, terms: dict[str, Tensor]
) -> str:
    """What the bar shows, for logs."""
    rate = (done - first) / (time.monotonic() - started)
    return (
        f"{recipe.name}: {done * recipe.views_per_step:,} of "
        f"{recipe.steps * recipe.views_per_step:,} views, loss {terms['loss'].item():.2f}, "
        f"{rate * recipe.views_per_step:,.0f} views/s, "
        f"{tqdm.format_interval((recipe.steps - done) / rate)} left"
    )


def _settle(
    recipe: Recipe,
    dataset: ImageDataset,
    budget_seconds: float | None,
    device: torch.device,
    compiled: bool,
) -> Recipe:
    """The recipe with everything decided that is measured: precision first, then views."""
    if recipe.precision == "auto":
        precision = from_first(lambda: measure_precision(device))
        recipe = recipe.model_copy(update={"precision": precision})
    if budget_seconds is not None:
        views = views_in(budget_seconds, recipe, dataset, device, compiled=compiled)
        recipe = recipe.model_copy(update={"views": views})
    return recipe


def _check_same(
    run: Run,
    record: RunRecord,
    recipe: Recipe,
    dataset: ImageDataset,
    budget_seconds: float | None,
) -> None:
    """Refuse to go on with a run of other settings than asked for."""
    old, new = record.recipe.model_dump(), recipe.model_dump()
    # What was measured at the start stays as it is.
    measured = {"views"} if budget_seconds is not None else set()
    if recipe.precision == "auto":
        measured.add("precision")
    changed = [
        f"{key} was {old[key]!r}, now {new[key]!r}"
        for key in new
        if key not in measured and old[key] != new[key]
    ]
    if record.dataset_sha256 != dataset.sha256:
        changed.append(f"the images were {record.dataset}, now {dataset.name} with other content")
    if changed:
        raise RunError(f"{run.path} holds another run ({'; '.join(changed)}): choose another --out")


@contextmanager
def deterministic() -> Iterator[None]:
    """Have cuDNN choose the same algorithms in every process."""
    old = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = old


def _environment(device: torch.device, compiled: bool) -> dict[str, str]:
    """What bit-for-bit equality depends on beside the checkpoint."""
    return {
        "torch": torch.__version__,
        "device": _device_name(device),
        "threads": str(torch.get_num_threads()) if device.type == "cpu" else "",
        "processes": str(world_size()),
        "compiled": "yes" if compiled else "no",
    }


def _warn_of_changes(old: dict[str, str], new: dict[str, str]) -> None:
    old = {"processes": "1", "compiled": "no", **old}  # runs from before there was a choice
    changed = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
    if changed:
        # Each process draws views of its own.
        how = "" if old["processes"] != new["processes"] else " in their last bits"
        print(
            f"resuming with {', '.join(changed)}: the weights will differ{how} from an "
            "undisturbed run's",
            file=sys.stderr,
        )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _code_commit() -> str | None:
    """The commit of the checkout that this file is in, ``-dirty`` added; None outside of one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match="],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip() or None
