"""The trainer, top to bottom: one function, :func:`train`, and what it is made of."""

from __future__ import annotations

import math
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from repzoo_training import networks, objectives
from repzoo_training.data import ImageDataset
from repzoo_training.errors import DataError, Diverged, RecipeError, RunError
from repzoo_training.figures import Progress
from repzoo_training.objectives import Objective
from repzoo_training.randomness import generator, image_indices
from repzoo_training.recipe import Recipe
from repzoo_training.run import Checkpoint, Run, RunRecord
from repzoo_training.views import Views

__all__ = ["build_objective", "measure_precision", "train", "views_in"]

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
    progress: bool = True,
) -> Run:
    """Train ``recipe`` on ``dataset`` in the folder ``out``, or go on where a run there stopped.

    A resumed run ends with the weights of an undisturbed one, bit for bit on the same device type,
    thread count and library versions. SIGTERM and Ctrl-C finish the step, save, and end the
    process with 143 or 130.

    Args:
        recipe: what to train.
        dataset: uint8 images of the recipe's own size.
        out: the run's folder; made if missing.
        source: where the images come from, remembered for ``zoo export``.
        budget_seconds: instead of the recipe's ``views``, as many as fit this time. Measured once,
            when the run starts, and stored: the schedule never depends on the clock.
        device: ``cuda`` where there is one, else ``cpu``.
        checkpoint_seconds: time between checkpoints; it changes nothing else.
        progress: show a bar on a terminal, and a line now and then elsewhere.

    Raises:
        DataError: if the images are not of the recipe's size.
        RunError: if ``out`` holds a run of another recipe or data set, or is in use.
        Diverged: if the loss stops being finite.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dataset.shape != recipe.input:
        raise DataError(
            f"{dataset.name} has images of {dataset.shape} (height, width, channels), "
            f"recipe {recipe.name} takes {recipe.input}"
        )
    run = Run(out)
    with run.locked(), deterministic(), Stop() as stop:
        record = run.read_record()
        if record is None:
            recipe = _settle(recipe, dataset, budget_seconds, device)
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
            run.start(record)
        else:
            _check_same(run, record, recipe, dataset, budget_seconds)
        _train(run, record.recipe, dataset, device, stop, checkpoint_seconds, progress)
    return run


def _train(
    run: Run,
    recipe: Recipe,
    dataset: ImageDataset,
    device: torch.device,
    stop: Stop,
    checkpoint_seconds: float,
    progress: bool,
) -> None:
    objective = build_objective(recipe).to(device).train()
    optimizer = torch.optim.AdamW(
        objective.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    first, spent = 0, 0.0
    checkpoint = run.read_checkpoint()
    if checkpoint is not None:
        run.load_weights(objective)
        optimizer.load_state_dict(checkpoint.optimizer)
        first, spent = checkpoint.step, checkpoint.wall_seconds
        _warn_of_changes(checkpoint.environment, _environment(device))
    run.rewind_metrics(first)

    images = torch.from_numpy(dataset.images).permute(0, 3, 1, 2).contiguous().to(device)
    make_views = Views(recipe.augmentation, recipe.image_shape[1:], device)
    pictures = Progress(run, recipe, images, make_views)
    report_every = max(1, recipe.steps // REPORTS)
    draw_every = max(1, recipe.steps // FIGURES)
    started = saved = time.monotonic()
    advice = (
        "the last checkpoint is from before. "
        f"Try a lower learning rate than {recipe.learning_rate:g}"
    )

    def save(step: int) -> None:
        if not all(parameter.isfinite().all() for parameter in objective.parameters()):
            raise Diverged(f"weights are no longer finite at step {step}; {advice}")
        wall = spent + time.monotonic() - started
        run.save(
            Checkpoint(
                step=step,
                objective=objective.state_dict(),
                optimizer=optimizer.state_dict(),
                wall_seconds=wall,
                environment=_environment(device),
            )
        )

    bar = tqdm(
        total=recipe.steps * recipe.views_per_step,
        initial=first * recipe.views_per_step,
        unit=" views",
        unit_scale=True,
        desc=recipe.name,
        disable=None if progress else True,
    )
    with bar:
        for step in range(first, recipe.steps):
            rate = learning_rate(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            terms = take_step(objective, optimizer, images, make_views, recipe, step)
            bar.update(recipe.views_per_step)

            done = step + 1
            last = done == recipe.steps
            if done % report_every == 0 or last:
                values = {name: term.item() for name, term in terms.items()}
                if not math.isfinite(values["loss"]):
                    raise Diverged(f"the loss is {values['loss']} at step {done}; {advice}")
                elapsed = time.monotonic() - started
                run.report(
                    {
                        "step": done,
                        "views": done * recipe.views_per_step,
                        **values,
                        "learning_rate": rate,
                        "views_per_second": (done - first) * recipe.views_per_step / elapsed,
                        "wall_seconds": spent + elapsed,
                    }
                )
                bar.set_postfix(loss=f"{values['loss']:.2f}")
            if done % draw_every == 0 or last:
                pictures.draw(objective)
                if progress and bar.disable:
                    print(_progress_line(recipe, first, done, started, terms), file=sys.stderr)
            if last or stop.requested or time.monotonic() - saved > checkpoint_seconds:
                save(done)
                saved = time.monotonic()
            if stop.requested and not last:
                bar.close()
                stop.exit(f"saved at step {done} of {recipe.steps}; the same command goes on")


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


def take_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    make_views: Views,
    recipe: Recipe,
    step: int,
) -> dict[str, Tensor]:
    """Step number ``step``: views, loss, gradients, update. Returns the loss and its terms."""
    device = images.device
    chosen = image_indices(recipe.seed, len(images), step, recipe.images_per_step).to(device)
    draws = generator(recipe.seed, "step", step, device)
    views = make_views(images[chosen], recipe.views_per_image, draws)  # [B, J, C, H, W]
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        terms: dict[str, Tensor] = objective(views, draws)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    optimizer.step()
    return {name: term.detach() for name, term in terms.items()}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine to zero: a function of the step alone."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build_objective(recipe: Recipe) -> Objective:
    """The recipe's objective with its networks, initialised from the recipe's seed.

    Raises:
        RecipeError: if the recipe does not hold together.
    """
    # Modules initialise from the global generator; forking keeps the caller's as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(recipe.seed, "initialisation").initial_seed())
        try:
            encoder, decoder = networks.build(recipe.network, recipe.image_shape, recipe.latent_dim)
            return objectives.build(
                recipe.method, recipe.options, encoder, decoder, recipe.likelihood.build()
            )
        except ValueError as error:
            raise RecipeError(f"recipe {recipe.name}: {error}") from None


def measure_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """``bfloat16`` where its matrix products are at least twice as fast as float32's, else not.

    Processors without instructions for it are up to 40 times slower in it.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, dtype=dtype, device=device)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            (a @ a)[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return "bfloat16" if 2 * seconds[torch.bfloat16] < seconds[torch.float32] else "float32"


def views_in(seconds: float, recipe: Recipe, dataset: ImageDataset, device: torch.device) -> int:
    """How many views ``recipe`` trains on in ``seconds`` here, at least one step's."""
    per_step = _seconds_per_step(recipe, dataset, device, min(5.0, 0.1 * seconds))
    # The rest is for pictures, reports and checkpoints.
    return max(1, int(0.95 * seconds / per_step)) * recipe.views_per_step


def _seconds_per_step(
    recipe: Recipe, dataset: ImageDataset, device: torch.device, seconds: float
) -> float:
    """The median over at least three steps of a throw-away copy, and ``seconds`` of them."""
    objective = build_objective(recipe).to(device).train()
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-5, fused=True)
    pixels = dataset.images[: max(1, min(len(dataset), 4096))]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
    make_views = Views(recipe.augmentation, recipe.image_shape[1:], device)
    times: list[float] = []
    take_step(objective, optimizer, images, make_views, recipe, 0)["loss"].item()
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        terms = take_step(objective, optimizer, images, make_views, recipe, 1 + len(times))
        terms["loss"].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _settle(
    recipe: Recipe, dataset: ImageDataset, budget_seconds: float | None, device: torch.device
) -> Recipe:
    """The recipe with everything decided that is measured: precision first, then views."""
    if recipe.precision == "auto":
        precision = measure_precision(device)
        recipe = recipe.model_copy(update={"precision": precision})
    if budget_seconds is not None:
        views = views_in(budget_seconds, recipe, dataset, device)
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


class Stop:
    """Remembers SIGTERM and Ctrl-C, so that a step is finished and saved before the end.

    A second Ctrl-C ends at once. Outside the main thread, where Python allows no handlers, signals
    stay as they are.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> Stop:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._remember)
        except ValueError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def exit(self, message: str) -> None:
        """End the process as the signal would have, with a message."""
        assert self.requested is not None
        print(message, file=sys.stderr)
        raise SystemExit(128 + self.requested)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


@contextmanager
def deterministic() -> Iterator[None]:
    """Have cuDNN choose the same algorithms in every process."""
    old = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = old


def _environment(device: torch.device) -> dict[str, str]:
    """What bit-for-bit equality depends on beside the checkpoint."""
    return {
        "torch": torch.__version__,
        "device": _device_name(device),
        "threads": str(torch.get_num_threads()) if device.type == "cpu" else "",
    }


def _warn_of_changes(old: dict[str, str], new: dict[str, str]) -> None:
    changed = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
    if changed:
        print(
            f"resuming with {', '.join(changed)}: the weights will differ in their last bits from "
            "an undisturbed run's",
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
