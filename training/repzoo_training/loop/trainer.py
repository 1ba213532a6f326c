"""The trainer: :func:`train` and its parts, from top to bottom."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from repzoo_training.data import ImageDataset
from repzoo_training.distributed.gather import rank, world_size
from repzoo_training.errors import DataError, Diverged, RunError
from repzoo_training.loop.budget import measure_budget, measure_precision
from repzoo_training.loop.interruption import Stop
from repzoo_training.loop.parallel import (
    Pulse,
    from_first,
    local_device,
    mean_over_processes,
    processes,
)
from repzoo_training.loop.start import Start
from repzoo_training.loop.step import Learner, check_shares, to_device
from repzoo_training.optim.optimizers import learning_rate
from repzoo_training.recipes.extensions import loaded_files
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.run import Checkpoint, Run, RunRecord
from repzoo_training.watching.collapse import CollapseMonitor
from repzoo_training.watching.figures import Progress
from repzoo_training.watching.pace import Pace
from repzoo_training.watching.trackers import Tracker, Trackers

__all__ = ["train"]

REPORTS = 200  # lines of metrics.jsonl per run
LINES = 20  # lines of progress per run, where there is no terminal


def train(
    recipe: Recipe,
    dataset: ImageDataset,
    out: str | Path,
    *,
    source: str = "",
    start: Start | None = None,
    budget_seconds: float | None = None,
    device: torch.device | str | None = None,
    checkpoint_seconds: float = 60.0,
    compiled: bool = False,
    trackers: Sequence[Tracker] = (),
    progress: bool = True,
) -> Run:
    """Train ``recipe`` on ``dataset`` in the folder ``out``, or resume the run in that folder.

    A resumed run ends with the same weights as an uninterrupted one: bit for bit on the same device
    type, number of threads and processes, and library versions. On SIGTERM or Ctrl-C, the current
    step is finished and saved, and the process exits with status 143 or 130.

    A finished run is extended if ``recipe`` has more views and is otherwise the same. The learning
    rate then warms up again and follows the recipe's schedule once more, over the added views
    (warm restarts: Loshchilov and Hutter 2017, arXiv 1608.03983). So do the schedules of momentum
    networks. Weights and the state of the optimizer are kept.

    Under ``torchrun``, every process calls this function. Each trains on its share of every batch,
    and the first one writes the run. All need the same images and access to the folder ``out``.

    Args:
        recipe: The recipe to train.
        dataset: uint8 images of the recipe's input size.
        out: The run folder; created if it does not exist.
        source: Where the images come from; recorded for ``zoo export``.
        start: The weights to start from, instead of new ones.
        budget_seconds: Train on as many views as fit in this time, instead of the recipe's
            ``views``. Measured once, when the run starts, and recorded: the schedule never depends
            on the clock.
        device: By default ``cuda`` if it is available, else ``cpu``.
        checkpoint_seconds: The time between checkpoints. It does not affect the weights.
        compiled: Compile the step; see :class:`repzoo_training.loop.step.Learner`.
        trackers: Where the reports go, besides ``metrics.jsonl``.
        progress: Show a progress bar on a terminal, and occasional lines of text elsewhere.

    Raises:
        DataError: If there are no images, or they do not have the recipe's input size.
        RecipeError: If the images of a step cannot be divided among the processes, or ``start`` is
            of another network.
        RunError: If ``out`` is in use, or holds a run of another recipe or data set.
        Diverged: If the loss or a weight is no longer finite.
    """
    device = local_device(device)
    if dataset.shape != recipe.input:
        raise DataError(
            f"{dataset.name} has images of {dataset.shape} (height, width, channels), but "
            f"recipe {recipe.name} expects {recipe.input}"
        )
    if not len(dataset):
        raise DataError(f"{dataset.name} has no images")
    if (recipe.group_by is None) != (dataset.groups is None):
        raise DataError(
            f"recipe {recipe.name} groups images by {recipe.group_by}, but {dataset.name} was "
            f"loaded {'without' if dataset.groups is None else 'with'} groups: pass group_by to "
            "load, too"
        )
    run = Run(out)
    with processes(device), ExitStack() as held, deterministic(), Stop() as stop:
        check_shares(recipe)
        from_first(lambda: held.enter_context(run.locked()))
        record = stored = from_first(run.read_record)
        if stored is not None:
            # A budget became a number of views when the run began, and cannot extend it.
            record = (
                from_first(lambda: _extended(run, stored, recipe, progress))
                if budget_seconds is None
                else stored
            )
            _check_same(run, record, recipe, dataset, start, budget_seconds)
        images = to_device(dataset, device)
        if record is None:
            record = RunRecord(
                recipe=_settle(recipe, images, budget_seconds, compiled, progress),
                source=source,
                dataset=dataset.name,
                dataset_sha256=dataset.sha256,
                dataset_images=len(dataset),
                device=device.type,
                device_name=_device_name(device),
                code_commit=_code_commit(),
                recipe_files=loaded_files(),
                started_from=None if start is None else start.source,
                jpeg="scaled",
            )
        learner = Learner(
            record.recipe,
            images,
            dataset.groups,
            compiled=compiled,
            start=start,
            begin=record.begin,
        )
        if rank() == 0 and record != stored:
            run.start(record, dataset.skipped)
        environment = _environment(device, compiled)
        _train(run, record, learner, stop, checkpoint_seconds, environment, trackers, progress)
    return run


def _train(
    run: Run,
    record: RunRecord,
    learner: Learner,
    stop: Stop,
    checkpoint_seconds: float,
    environment: dict[str, str],
    trackers: Sequence[Tracker],
    progress: bool,
) -> None:
    recipe, objective = learner.recipe, learner.objective
    writes = rank() == 0
    first, spent = 0, 0.0
    if from_first(run.checkpoint_file.exists):
        checkpoint = run.load_weights(objective)
        run.load_optimizer(learner.optimizer, checkpoint)
        first, spent = checkpoint.step, checkpoint.wall_seconds
        if writes:
            _warn_of_changes(checkpoint.environment, environment)
    if writes:
        run.rewind_metrics(first)
    if world_size() > 1:
        learner.rehearse(first)
    pictures = Progress(run, recipe, learner.images, learner.make_views)
    pulse = Pulse(first)
    report_every = max(1, recipe.steps // REPORTS)
    print_every = math.ceil(recipe.steps / LINES)
    monitor = CollapseMonitor(run, recipe, learner.images, report_every)
    pace = Pace()
    started = saved = reported = time.monotonic()
    before = first
    advice = (
        "the last checkpoint is still valid. "
        f"Try a lower learning rate than {recipe.learning_rate:g}"
    )

    def save(step: int) -> None:
        if not all(parameter.isfinite().all() for parameter in objective.parameters()):
            raise Diverged(f"the weights are no longer finite at step {step}: {advice}")
        if writes:
            run.save(
                Checkpoint(
                    step=step,
                    objective=objective.state_dict(),
                    optimizer=learner.optimizer.state_dict(),
                    wall_seconds=spent + time.monotonic() - started,
                    environment=environment,
                )
            )
        from_first(lambda: None)  # the other processes wait until the file is written

    bar = tqdm(
        total=recipe.steps * recipe.views_per_step,
        initial=first * recipe.views_per_step,
        unit=" views",
        unit_scale=True,
        desc=recipe.name,
        disable=None if progress and writes else True,
    )
    with Trackers(trackers if writes else (), run, record, first) as tracked, bar:
        for step in range(first, recipe.steps):
            rate = learning_rate(recipe, step, learner.begin)
            for group in learner.optimizer.param_groups:
                group["lr"] = rate
            terms = learner.step(step)
            bar.update(recipe.views_per_step)

            done = step + 1
            last = done == recipe.steps
            if done % report_every == 0 or last:
                values = mean_over_processes(terms)
                if not math.isfinite(values["loss"]):
                    raise Diverged(f"the loss is {values['loss']} at step {done}: {advice}")
                now = time.monotonic()
                report: dict[str, Any] = {
                    "step": done,
                    "views": done * recipe.views_per_step,
                    **values,
                    "learning_rate": rate,
                    "views_per_second": (done - before) * recipe.views_per_step / (now - reported),
                    "wall_seconds": spent + now - started,
                }
                before, reported = done, now
                if writes:
                    report |= monitor.observe(objective, done)
                    run.report(report)
                    tracked.log(report, done)
                    if last or pace.due():
                        with pace.measured():
                            monitor.draw()
                            pictures.draw(objective)
                bar.set_postfix(loss=f"{values['loss']:.2f}")
            if writes and progress and bar.disable and (done % print_every == 0 or last):
                print(_progress_line(recipe, first, done, started, terms), file=sys.stderr)
            due = time.monotonic() - saved > checkpoint_seconds
            signal, due = pulse(done, stop.requested, due)
            if last or signal or due:
                save(done)
                saved = time.monotonic()
            if signal and not last:
                bar.close()
                stop.exit(
                    signal,
                    f"saved at step {done} of {recipe.steps}; repeat the command to resume",
                )


def _progress_line(
    recipe: Recipe, first: int, done: int, started: float, terms: dict[str, Tensor]
) -> str:
    """Return the content of the progress bar as a line for logs."""
    rate = (done - first) / (time.monotonic() - started)
    return (
        f"{recipe.name}: {done * recipe.views_per_step:,} of "
        f"{recipe.steps * recipe.views_per_step:,} views, loss {terms['loss'].item():.2f}, "
        f"{rate * recipe.views_per_step:,.0f} views/s, "
        f"{tqdm.format_interval((recipe.steps - done) / rate)} left"
    )


def _settle(
    recipe: Recipe,
    images: Tensor,
    budget_seconds: float | None,
    compiled: bool,
    progress: bool,
) -> Recipe:
    """Return the recipe with all measured values filled in: first its precision, then its views."""
    if recipe.precision == "auto":
        precision = from_first(lambda: measure_precision(images.device))
        recipe = recipe.model_copy(update={"precision": precision})
    if budget_seconds is not None:
        views, seconds = measure_budget(budget_seconds, recipe, images, compiled=compiled)
        recipe = recipe.model_copy(update={"views": views})
        if progress and rank() == 0:
            print(
                f"budget: {views:,} views, about {tqdm.format_interval(math.ceil(seconds))} at the "
                "current speed of this machine; it takes longer if the machine gets busier",
                file=sys.stderr,
            )
    return recipe


def _extended(run: Run, record: RunRecord, recipe: Recipe, progress: bool) -> RunRecord:
    """Return the record of a finished run with the views of a longer recipe, or the record."""
    old = record.recipe
    if recipe.steps <= old.steps:
        return record
    checkpoint = run.read_checkpoint()
    if checkpoint is None or checkpoint.step < old.steps:
        return record
    if progress and rank() == 0:
        print(
            f"extending the run from {old.steps * old.views_per_step:,} to "
            f"{recipe.steps * recipe.views_per_step:,} views: the learning rate warms up again and "
            f"follows its schedule ({old.schedule}) over the added views",
            file=sys.stderr,
        )
    return record.model_copy(
        update={
            "recipe": old.model_copy(update={"views": recipe.views}),
            "extended_at": (*record.extended_at, old.steps),
        }
    )


def _check_same(
    run: Run,
    record: RunRecord,
    recipe: Recipe,
    dataset: ImageDataset,
    start: Start | None,
    budget_seconds: float | None,
) -> None:
    """Raise RunError if the run in the folder has other settings than requested."""
    old, new = record.recipe.model_dump(), recipe.model_dump()
    # Values measured at the start of the run are kept, and so are its descriptions.
    kept = {"summary", "notes", "paper"}
    if budget_seconds is not None:
        kept.add("views")
    if recipe.precision == "auto":
        kept.add("precision")
    changed = [
        f"{key} was {old[key]!r}, now {new[key]!r}"
        for key in new
        if key not in kept and old[key] != new[key]
    ]
    began = None if start is None else start.source
    if record.started_from != began:
        changed.append(
            f"it started from {record.started_from or 'new weights'}, now {began or 'new weights'}"
        )
    if record.dataset_sha256 != dataset.sha256:
        changed.append(
            f"the images were {record.dataset}, now {dataset.name} with different content"
        )
    if changed:
        raise RunError(
            f"{run.path} holds a different run ({'; '.join(changed)}): choose another --out"
        )


@contextmanager
def deterministic() -> Iterator[None]:
    """Make cuDNN choose the same algorithms in every process."""
    old = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = old


def _environment(device: torch.device, compiled: bool) -> dict[str, str]:
    """Return what bit-for-bit equality depends on, apart from the checkpoint."""
    return {
        "torch": torch.__version__,
        "device": _device_name(device),
        "threads": str(torch.get_num_threads()) if device.type == "cpu" else "",
        "processes": str(world_size()),
        "compiled": "yes" if compiled else "no",
    }


def _warn_of_changes(old: dict[str, str], new: dict[str, str]) -> None:
    old = {"processes": "1", "compiled": "no", **old}  # runs older than these settings
    changed = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
    if changed:
        # Each process draws its own views.
        how = "" if old["processes"] != new["processes"] else " in their last bits"
        print(
            f"resuming with {', '.join(changed)}: the weights will differ{how} from those of an "
            "uninterrupted run",
            file=sys.stderr,
        )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _code_commit() -> str | None:
    """Return the commit of this checkout, with ``-dirty`` if modified; None outside a checkout."""
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
