"""Evaluations of training runs, kept beside their checkpoints as ``RUN/evaluation.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

import torch
from pydantic import ValidationError
from repzoo.files import write_atomically

from repzoo_training.data import ImageDataset, load
from repzoo_training.errors import RunError
from repzoo_training.evaluation.inputs import default_device
from repzoo_training.evaluation.protocol import (
    DEFAULT_GROUPS,
    SUITE,
    check_groups,
    evaluate_dataset,
)
from repzoo_training.evaluation.report import EvaluationReport, Group
from repzoo_training.run import Run
from repzoo_training.trained import TrainedModel

__all__ = ["REPORT_FILE", "Splits", "evaluate_run"]

#: Name of the report in a run's folder.
REPORT_FILE = "evaluation.json"

#: What ``--data`` names, or its two splits in memory: (train, test).
Splits: TypeAlias = str | Path | tuple[ImageDataset, ImageDataset]


def evaluate_run(
    path: str | Path,
    data: Splits | None = None,
    measures: Collection[Group] = DEFAULT_GROUPS,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> EvaluationReport:
    """The report of the run in the folder ``path``, of its last checkpoint.

    What ``RUN/evaluation.json`` already has of the same checkpoint, data and suite is not computed
    again; what it lacks is computed and added to it, atomically.

    Args:
        path: the run.
        data: a source as for :func:`repzoo_training.data.load`, or ``(train, test)`` in memory,
            which many runs can share; by default what the run was trained on.
        measures: groups that the report must have; it has those kept from before too.
        device: where to embed and fit; None for the GPU if there is one.
        progress: show bars, on a terminal only.

    Raises:
        RunError: if there is no run with a checkpoint.
        DataError: if the data cannot be used, or there is nothing to measure.
        InvalidInput: for a group that does not exist.
    """
    wanted = check_groups(measures)
    run = Run(path)
    record = run.read_record()
    if record is None:
        raise RunError(f"{path} holds no run: no run.json")
    train, test = _splits(data or record.source, record.recipe.input, progress)
    checkpoint = _sha256(run.checkpoint_file)
    known = _read(run.path / REPORT_FILE, checkpoint, train, test)
    missing = [group for group in wanted if known is None or group not in known.groups]
    if known is not None and not missing:
        return known
    place = default_device(device)
    model = TrainedModel(path, place)
    fresh = evaluate_dataset(
        model, train, test, measures=missing, device=place, progress=progress
    ).report
    report = fresh.model_copy(
        update={
            "method": model.recipe.method,
            "recipe": model.recipe.name,
            "seed": model.recipe.seed,
            "views": model.views,
            "steps": model.steps,
            "checkpoint_sha256": checkpoint,
        }
    )
    if known is not None:
        report = report.model_copy(
            update={
                "measures": known.measures + report.measures,
                "groups": check_groups(known.groups + report.groups),
            }
        )
    write_atomically(run.path / REPORT_FILE, report.model_dump_json(indent=2).encode() + b"\n")
    return report


def _splits(
    data: Splits, size: tuple[int, int, int], progress: bool
) -> tuple[ImageDataset, ImageDataset]:
    if isinstance(data, tuple):
        return data
    train, test = (load(data, split, size=size, progress=progress) for split in ("train", "test"))
    return train, test


def _sha256(checkpoint: Path) -> str:
    try:
        with checkpoint.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise RunError(
            f"{checkpoint.parent} has no checkpoint yet: run `zoo train` first"
        ) from None


def _read(
    file: Path, checkpoint: str, train: ImageDataset, test: ImageDataset
) -> EvaluationReport | None:
    """The report in ``file``, if it is of the same weights, images and protocols."""
    try:
        report = EvaluationReport.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):  # of no version, or of another one
        return None
    ours = (SUITE, checkpoint, train.sha256, test.sha256)
    theirs = (report.suite, report.checkpoint_sha256, report.train_sha256, report.test_sha256)
    return report if ours == theirs else None
