"""The folder of a run: written by ``zoo train``, read by the other commands.

RUN/run.json          the recipe and data set of the run
RUN/checkpoint.pt     everything needed to resume; replaced atomically
RUN/metrics.jsonl     one line per report
RUN/figures/*.png     learning curves, collapse statistics, reconstructions and samples, redrawn
                      during training
RUN/trackers.json     identifiers of the run at experiment trackers, if it reports to any
RUN/skipped.txt       images that could not be read, if there are any, and why
RUN/evaluation.json   what `zoo evaluate` measured for the checkpoint
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError
from repzoo.files import write_atomically
from repzoo.packages.config import InputSpec
from repzoo.packages.reference import is_path

from repzoo_training.data.pixels import input_spec
from repzoo_training.errors import RunError, problems
from repzoo_training.objectives import Objective, find_method
from repzoo_training.recipes.extensions import VARIABLE, load_again
from repzoo_training.recipes.recipe import Recipe

__all__ = ["Checkpoint", "Run", "RunRecord", "run_in"]


class RunRecord(BaseModel):
    """``run.json``: fixed when a run starts or is extended.

    ``source`` is the value of ``--data``, with its split. ``recipe_files`` are files of the user;
    see :mod:`repzoo_training.recipes.extensions`. ``started_from`` says which weights the run
    started from, if they were not new. ``extended_at`` are the steps at which the run was finished
    before it was extended. ``jpeg`` is how large JPEG files were decoded, as in the resize policy
    of packages; runs of version 0.1 do not record it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    source: str
    dataset: str
    dataset_sha256: str
    dataset_images: int
    device: str
    device_name: str
    code_commit: str | None
    recipe_files: tuple[str, ...] = ()
    started_from: str | None = None
    extended_at: tuple[int, ...] = ()
    jpeg: Literal["full", "scaled"] = "full"

    @property
    def input(self) -> InputSpec:
        """The input that the run's images are prepared for."""
        return input_spec(self.recipe.input, self.jpeg)

    @property
    def begin(self) -> int:
        """The first step of the current schedule."""
        return self.extended_at[-1] if self.extended_at else 0


class Checkpoint(BaseModel):
    """``checkpoint.pt``: only tensors and plain values, so that loading it runs no code.

    The schedule, the data order and all randomness are functions of the recipe and ``step``.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    step: int
    objective: dict[str, Any]
    optimizer: dict[str, Any]
    wall_seconds: float
    environment: dict[str, str]


def run_in(source: str, hub: str | None) -> Run | None:
    """Return the run that ``source`` names, or None if it can only name a package.

    Args:
        source: The path of a run, or the path or name of a package.
        hub: The hub that was given with it, if any. A bare name is then the name of a package,
            even if a run of this name exists.
    """
    if hub is not None and not is_path(source, named=True):
        return None
    run = Run(source)
    return run if run.record_file.exists() else None


class Run:
    """The folder ``path`` of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record_file = self.path / "run.json"
        self.checkpoint_file = self.path / "checkpoint.pt"
        self.skipped_file = self.path / "skipped.txt"
        self.metrics_file = self.path / "metrics.jsonl"
        self.figures = self.path / "figures"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process, and remove checkpoints that a killed one did not finish.

        Raises:
            RunError: If another process trains in this folder, or the folder cannot be written.
        """
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path} cannot be used as a run folder: {error}") from None
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"another process is training in {self.path}") from None
        with lock:
            for unfinished in self.path.glob(f".{self.checkpoint_file.name}.*"):
                unfinished.unlink()
            yield

    def read_record(self) -> RunRecord | None:
        """Return the record, or None if the folder holds no run.

        Raises:
            RunError: If ``run.json`` is damaged, or was trained with a file that may not be loaded.
        """
        try:
            data = self.record_file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            files = list(map(str, json.loads(data).get("recipe_files", ())))
        except (ValueError, AttributeError, TypeError):
            files = []
        missing = load_again(files)
        try:
            record = RunRecord.model_validate_json(data)
            find_method(record.recipe.method)
        except (ValidationError, ValueError) as error:
            if missing:
                raise RunError(
                    f"{self.path} was trained with {', '.join(missing)}, which this machine does "
                    f"not have or has not used yet: set {VARIABLE} to the file if you trust it"
                ) from None
            text = problems(error) if isinstance(error, ValidationError) else str(error)
            raise RunError(f"{self.record_file} is damaged: {text}") from None
        return record

    def start(self, record: RunRecord, skipped: Sequence[str] = ()) -> None:
        """Write the record of a new or extended run, and the list of unreadable images."""
        if skipped:
            write_atomically(self.skipped_file, "".join(f"{line}\n" for line in skipped).encode())
        write_atomically(self.record_file, record.model_dump_json(indent=2).encode() + b"\n")

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint. A kill leaves either the old file or the new one."""
        buffer = io.BytesIO()
        torch.save(dict(checkpoint), buffer)
        write_atomically(self.checkpoint_file, buffer.getvalue())

    def read_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint on the CPU, or None if there is none yet.

        Raises:
            RunError: If the file is damaged.
        """
        try:
            state = torch.load(self.checkpoint_file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises many exception types for a damaged file
            raise RunError(f"{self.checkpoint_file} is damaged: {error}") from None
        return Checkpoint.model_validate(state)

    def load_weights(self, objective: Objective) -> Checkpoint:
        """Load the weights of the last checkpoint into ``objective``.

        Raises:
            RunError: If there is no checkpoint, or it belongs to another network.
        """
        checkpoint = self.read_checkpoint()
        if checkpoint is None:
            raise RunError(f"{self.path} has no checkpoint yet: run `zoo train` first")
        try:
            objective.load_state_dict(checkpoint.objective)
        except RuntimeError as error:
            raise RunError(f"{self.checkpoint_file} does not match its recipe: {error}") from None
        return checkpoint

    def load_optimizer(self, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
        """Load the state of ``checkpoint`` into ``optimizer``.

        Raises:
            RunError: If the state belongs to other parameters or to another optimizer.
        """
        try:
            optimizer.load_state_dict(checkpoint.optimizer)
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor) and value.ndim:
                        if value.shape != parameter.shape:
                            raise ValueError(
                                f"{name} has shape {value.shape}, expected {parameter.shape}"
                            )
                        # Fused updates rely on the parameter's own memory format.
                        state[name] = torch.empty_like(parameter).copy_(value)
        except (ValueError, KeyError) as error:
            raise RunError(
                f"{self.checkpoint_file} has the optimizer state of another version of repzoo "
                f"({error}): it can be evaluated and exported, but not trained further. To "
                "resume, use the version that wrote it; to start again, choose another --out"
            ) from None

    def rewind_metrics(self, step: int) -> None:
        """Remove lines of ``metrics.jsonl`` after ``step``, and a last line cut off by a kill."""
        if not self.metrics_file.exists():
            return
        kept = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        write_atomically(self.metrics_file, "".join(kept).encode())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``, without a last line cut off by a kill."""
        lines: list[dict[str, Any]] = []
        if self.metrics_file.exists():
            for line in self.metrics_file.read_text(errors="replace").splitlines():
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return lines

    def observations(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl`` at which the run was checked for collapse."""
        return [line for line in self.read_metrics() if "spectrum" in line]

    def report(self, values: Mapping[str, float | list[float]]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(values) + "\n")
