"""A run's folder: what ``zoo train`` leaves behind, and finds again.

RUN/run.json          the recipe as it ran, and the data set
RUN/checkpoint.pt     everything needed to go on; replaced atomically
RUN/metrics.jsonl     one line a report
RUN/figures/*.png     reconstructions, samples and signs of collapse, as it trains
RUN/evaluation.json   what `zoo evaluate` measured of the checkpoint
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError
from repzoo.files import write_atomically

from repzoo_training.errors import RunError
from repzoo_training.objectives import Objective
from repzoo_training.recipes.recipe import Recipe

__all__ = ["Checkpoint", "Run", "RunRecord"]


class RunRecord(BaseModel):
    """``run.json``: fixed at the start of a run. ``source`` is what ``--data`` named then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    source: str
    dataset: str
    dataset_sha256: str
    dataset_images: int
    device: str
    device_name: str
    code_commit: str | None


class Checkpoint(BaseModel):
    """``checkpoint.pt``: tensors and plain values only, so that it loads without running code.

    The schedule, the data order and all randomness are functions of the recipe and ``step``.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    step: int
    objective: dict[str, Any]
    optimizer: dict[str, Any]
    wall_seconds: float
    environment: dict[str, str]


class Run:
    """The folder ``path`` of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record_file = self.path / "run.json"
        self.checkpoint_file = self.path / "checkpoint.pt"
        self.metrics_file = self.path / "metrics.jsonl"
        self.figures = self.path / "figures"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process alone.

        Raises:
            RunError: if another process trains on it.
        """
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path} cannot hold a run: {error}") from None
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"{self.path} is being trained on by another process") from None
        with lock:
            yield

    def read_record(self) -> RunRecord | None:
        """The record, or None for a folder that holds no run.

        Raises:
            RunError: if ``run.json`` is damaged.
        """
        try:
            return RunRecord.model_validate_json(self.record_file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise RunError(f"{self.record_file} is damaged: {error}") from None

    def start(self, record: RunRecord) -> None:
        """Write the record of a new run."""
        write_atomically(self.record_file, record.model_dump_json(indent=2).encode() + b"\n")

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one."""
        buffer = io.BytesIO()
        torch.save(dict(checkpoint), buffer)
        write_atomically(self.checkpoint_file, buffer.getvalue())

    def read_checkpoint(self) -> Checkpoint | None:
        """The checkpoint on the CPU, or None before the first.

        Raises:
            RunError: if the file is damaged.
        """
        try:
            state = torch.load(self.checkpoint_file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises many kinds for a damaged file
            raise RunError(f"{self.checkpoint_file} is damaged: {error}") from None
        return Checkpoint.model_validate(state)

    def load_weights(self, objective: Objective) -> Checkpoint:
        """Fill ``objective`` with the last checkpoint's weights.

        Raises:
            RunError: if there is no checkpoint, or it is of another network.
        """
        checkpoint = self.read_checkpoint()
        if checkpoint is None:
            raise RunError(f"{self.path} has no checkpoint yet: run `zoo train` first")
        try:
            objective.load_state_dict(checkpoint.objective)
        except RuntimeError as error:
            raise RunError(f"{self.checkpoint_file} does not fit its recipe: {error}") from None
        return checkpoint

    def load_optimizer(self, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
        """Fill ``optimizer`` with what it had at ``checkpoint``.

        Raises:
            RunError: if that is of other parameters or of another optimiser.
        """
        try:
            optimizer.load_state_dict(checkpoint.optimizer)
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor) and value.ndim:
                        if value.shape != parameter.shape:
                            raise ValueError(f"{name} of {value.shape}, not {parameter.shape}")
                        # In the parameter's own memory format, which fused updates rely on.
                        state[name] = torch.empty_like(parameter).copy_(value)
        except (ValueError, KeyError) as error:
            raise RunError(
                f"{self.checkpoint_file} holds the optimizer of another version of repzoo "
                f"({error}): its weights can be evaluated and exported, but not trained further. "
                "To go on, use the version that wrote it; to begin anew, choose another --out"
            ) from None

    def rewind_metrics(self, step: int) -> None:
        """Drop the lines of ``metrics.jsonl`` after ``step``, and a last line cut by a kill."""
        if not self.metrics_file.exists():
            return
        kept = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError):
                break
        write_atomically(self.metrics_file, "".join(kept).encode())

    def report(self, values: Mapping[str, float | list[float]]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(values) + "\n")
