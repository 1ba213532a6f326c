"""Evaluations of training runs, kept beside their checkpoints.

RUN/evaluation.json   the report of the last checkpoint, with all groups measured so far
RUN/decoder.pt        where the group ``decoder`` was, see :mod:`repzoo_training.evaluation.frozen_decoder`
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from repzoo.errors import UnsupportedOperation
from repzoo.files import write_atomically

from repzoo_training.data import ImageDataset, load
from repzoo_training.errors import RunError
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
from repzoo_training.run import Run

__all__ = ["REPORT_FILE", "Splits", "evaluate_run"]

#: Name of the report in a run's folder.
REPORT_FILE = "evaluation.json"

#: Train images that SimVAE's prior is fitted to, to generate.
MOST_PRIOR = 20_000

#: What ``--data`` names, or its two splits in memory: (train, test).
Splits: TypeAlias = str | Path | tuple[ImageDataset, ImageDataset]


def evaluate_run(
    path: str | Path,
    data: Splits | None = None,
    measures: Collection[Group] = DEFAULT_GROUPS,
    *,
    inception: str | Path | None = None,
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
        inception: file of torchvision's weights, for the group ``inception``.
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
    return report


def _frozen_decoder(
    path: str | Path, model: TrainedModel, train: ImageDataset, progress: bool
) -> FrozenDecoder:
    from repzoo_training.evaluation import frozen_decoder  # not at the top: it imports us

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


class Generation(NamedTuple):
    """Images float32 ``[n, H, W, C]`` in [0, 1] and the ``latents [n, D]`` that they are of."""

    images: NDArray[np.float32]
    latents: NDArray[np.float32]


class _GeneratingRun(TrainedModel):
    """A run that draws images from the same prior that its package would."""

    def __init__(self, path: str | Path, device: torch.device, train: ImageDataset) -> None:
        super().__init__(path, device)
        self._train = train

    def generate(self, n: int, *, seed: int) -> Generation:
        """``n`` images float32 ``[n, H, W, C]``, with their latents.

        Raises:
            UnsupportedOperation: if the run has no decoder.
        """
        if self.decoder is None:
            raise UnsupportedOperation(f"{self.recipe.method} has no decoder")
        from repzoo_training.prior import fit_mixture, standard_normal  # it imports us

        if self.recipe.method == "simvae":
            shown = self._train.images[:MOST_PRIOR]
            batches = [shown[start : start + 1000] for start in range(0, len(shown), 1000)]
            means, log_variances = (
                np.concatenate(each) for each in zip(*map(self.posterior, batches), strict=True)
            )
            weights, centres, scales = fit_mixture(means, log_variances, self.recipe.seed)
        else:
            weights, centres, scales = standard_normal(self.recipe.latent_dim)
        random = np.random.default_rng(seed)
        shares = weights.astype(np.float64)
        component = random.choice(len(weights), n, p=shares / shares.sum())
        noise = random.standard_normal((n, centres.shape[1]), np.float32)
        latents = centres[component] + scales[component] * noise
        images = [self.decode(latents[start : start + 1000]) for start in range(0, n, 1000)]
        return Generation(np.concatenate(images), latents)


def _others(measures: Sequence[Measure], known: Sequence[Measure]) -> tuple[Measure, ...]:
    """What is not known yet: groups about labels share the ``majority``."""
    names = {(m.task, m.name, m.unit) for m in known}
    return tuple(m for m in measures if (m.task, m.name, m.unit) not in names)


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
