"""Evaluate training runs and keep the reports in their folders.

RUN/evaluation.json   report of the last checkpoint, with all groups measured so far
RUN/decoder.pt        decoder of the group ``decoder``, see the module ``frozen_decoder``
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from repzoo.errors import UnsupportedOperation
from repzoo.files import write_atomically
from repzoo.packages.config import InputSpec
from repzoo.runtime.encoder import Generation
from repzoo.runtime.prior import sample_prior

from repzoo_training.data import ImageDataset, load_splits
from repzoo_training.errors import RunError
from repzoo_training.evaluation import frozen_decoder
from repzoo_training.evaluation.inputs import default_device
from repzoo_training.evaluation.protocol import (
    DEFAULT_GROUPS,
    SUITE,
    FrozenDecoder,
    check_groups,
    evaluate_dataset,
)
from repzoo_training.evaluation.report import EvaluationReport, Group, Measure
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.prior import MOST_IMAGES, fit_prior
from repzoo_training.run import Run

__all__ = ["REPORT_FILE", "Splits", "evaluate_run"]

#: Name of the report in the folder of a run.
REPORT_FILE = "evaluation.json"

_BATCH = 1000

#: A source as ``--data`` names it, or its two splits in memory: (train, test).
Splits: TypeAlias = str | Path | tuple[ImageDataset, ImageDataset]


def evaluate_run(
    path: str | Path,
    data: Splits | None = None,
    measures: Collection[Group] | None = None,
    *,
    inception: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> EvaluationReport:
    """Evaluate the last checkpoint of a run.

    Groups that ``RUN/evaluation.json`` already has for the same checkpoint, data and suite are not
    computed again. Missing groups are computed and added to the file atomically.

    Args:
        path: folder of the run.
        data: a source as for `repzoo_training.data.load`, or ``(train, test)`` in memory, which
            many runs can share. By default the data that the run was trained on.
        measures: groups of the report. By default `DEFAULT_GROUPS` and all that were measured
            earlier.
        inception: file of torchvision's weights, for the group ``inception``.
        device: where to embed and fit; by default the GPU if there is one.
        progress: show progress bars on a terminal.

    Raises:
        RunError: If the folder is not a run, or the run has no checkpoint.
        DataError: If the data cannot be used, or there is nothing to measure.
        InvalidInput: If a group does not exist.
    """
    wanted = check_groups(DEFAULT_GROUPS if measures is None else measures)
    run = Run(path)
    record = run.read_record()
    if record is None:
        raise RunError(f"{path} is not a run: it has no run.json")
    train, test = _splits(data or record.source, record.input, progress)
    checkpoint = _sha256(run.checkpoint_file)
    known = _read(run.path / REPORT_FILE, checkpoint, train, test)
    missing = [group for group in wanted if known is None or group not in known.groups]
    if known is not None and not missing:
        return known if measures is None else known.only(wanted)
    place = default_device(device)
    model = _GeneratingRun(path, place, train)
    evaluation = evaluate_dataset(
        model,
        train,
        test,
        measures=missing,
        decoder=_frozen_decoder(path, model, train, progress),
        inception=inception,
        device=place,
        progress=progress,
    )
    report = evaluation.report.model_copy(
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
                "measures": known.measures + _others(report.measures, known.measures),
                "groups": check_groups(known.groups + report.groups),
            }
        )
    write_atomically(run.path / REPORT_FILE, report.model_dump_json(indent=2).encode() + b"\n")
    return report if measures is None else report.only(wanted)


def _frozen_decoder(
    path: str | Path, model: TrainedModel, train: ImageDataset, progress: bool
) -> FrozenDecoder:
    return FrozenDecoder(
        lambda: frozen_decoder.with_frozen_decoder(path, model, train, progress=progress),
        {
            "decoder": "trained on the frozen encoder, its mirror",
            "loss": "cross-entropy",
            "optimiser": "Adam",
            "learning rate": frozen_decoder.LEARNING_RATE,
            "schedule": "cosine",
            "batch": frozen_decoder.BATCH,
            "steps": frozen_decoder.STEPS,
        },
    )


class _GeneratingRun(TrainedModel):
    """A run that generates images from the prior that its package would get."""

    def __init__(self, path: str | Path, device: torch.device, train: ImageDataset) -> None:
        super().__init__(path, device)
        self._train = train

    def generate(self, n: int, *, seed: int) -> Generation:
        """Generate ``n`` images.

        Raises:
            UnsupportedOperation: If the run has no decoder.
        """
        if self.decoder is None:
            raise UnsupportedOperation(f"{self.recipe.method} has no decoder")
        images = self._train.images[:MOST_IMAGES]
        batches = [self.outputs(batch) for batch in _batches(images)]
        outputs = {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}
        latents = sample_prior(fit_prior(outputs, self.recipe.seed), n, seed)
        return Generation(np.concatenate([*map(self.decode, _batches(latents))]), latents)


def _batches(rows: NDArray[Any]) -> list[NDArray[Any]]:
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]


def _others(measures: Sequence[Measure], known: Sequence[Measure]) -> tuple[Measure, ...]:
    """Return the measures that are not known yet: groups about labels share ``majority``."""
    names = {(m.task, m.name, m.unit) for m in known}
    return tuple(m for m in measures if (m.task, m.name, m.unit) not in names)


def _splits(data: Splits, size: InputSpec, progress: bool) -> tuple[ImageDataset, ImageDataset]:
    if isinstance(data, tuple):
        return data
    return load_splits(data, size=size, progress=progress)


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
    """Return the report in ``file`` if it has the same weights, images and protocols."""
    try:
        report = EvaluationReport.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):  # damaged, or written by another version
        return None
    ours = (SUITE, checkpoint, train.sha256, test.sha256)
    theirs = (report.suite, report.checkpoint_sha256, report.train_sha256, report.test_sha256)
    return report if ours == theirs else None
