"""What a run's folder says of itself; needs torch and repzoo_training on the path."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from repzoo_trips.pieces import write_file

__all__ = ["Progress", "copy_record", "prepare", "progress", "save_weights"]


def prepare() -> None:
    """Import what the others need, which takes seconds: while a run trains they cost nothing."""
    import repzoo_training.run  # noqa: F401


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``step`` of ``steps`` in ``seconds``, as the last checkpoint has it."""

    step: int
    steps: int
    seconds: float
    device: str


def progress(run: Path) -> Progress | None:
    """How far the run in a folder is, or None before its first checkpoint.

    Raises:
        RunError: if its files are damaged.
    """
    from repzoo_training.run import Run

    record, checkpoint = Run(run).read_record(), Run(run).read_checkpoint()
    if record is None or checkpoint is None:
        return None
    return Progress(
        step=checkpoint.step,
        steps=record.recipe.steps,
        seconds=checkpoint.wall_seconds,
        device=record.device_name,
    )


def save_weights(run: Path, path: Path) -> None:
    """The run's checkpoint without what only further steps would need of the optimiser.

    Weights, statistics and schedule stay as they are, bit for bit; Adam's moments are twice their
    size, and a finished run takes no step more.
    """
    import torch
    from repzoo_training.run import Run

    checkpoint = Run(run).read_checkpoint()
    assert checkpoint is not None
    groups = checkpoint.optimizer["param_groups"]
    lean = checkpoint.model_copy(update={"optimizer": {"state": {}, "param_groups": groups}})
    torch.save(dict(lean), path)


def copy_record(
    run: Path, path: Path, *, commit: str | None = None, source: str | None = None
) -> None:
    """Copy ``run.json`` with the commit of the code, where it has none, and another ``source``.

    The far side has no repository to ask for a commit, and the data lies elsewhere there.
    """
    record = json.loads((run / "run.json").read_bytes())
    record["code_commit"] = record["code_commit"] or commit
    record["source"] = source or record["source"]
    write_file(path, json.dumps(record, indent=2).encode() + b"\n")
