"""Runs to compare: their records, costs and measures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repzoo.bulk.skipping import MAX_SKIPPED
from repzoo.packages.config import InputSpec
from repzoo.packages.package import is_package
from tqdm import tqdm

from repzoo_training.data import ImageDataset, load_splits
from repzoo_training.errors import DataError, RunError
from repzoo_training.evaluation import EvaluationReport, Group, evaluate_run
from repzoo_training.loop.trained import last_observation
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.run import Run, RunRecord

__all__ = ["ComparedRun", "Images", "measure_runs"]


@dataclass(frozen=True)
class ComparedRun:
    """One run and its numbers.

    Attributes:
        path: folder of the run.
        record: recipe and data of the run.
        report: the evaluation.
        steps: optimiser steps behind the weights.
        wall_seconds: training time.
        collapse: last collapse statistics from training; empty if there are none.
    """

    path: Path
    record: RunRecord
    report: EvaluationReport
    steps: int
    wall_seconds: float
    collapse: dict[str, Any]

    @property
    def recipe(self) -> Recipe:
        return self.record.recipe

    @property
    def views(self) -> int:
        """Views behind the weights."""
        return self.steps * self.recipe.views_per_step

    @property
    def unfinished(self) -> bool:
        return self.steps < self.recipe.steps


class Images:
    """The images that runs are measured on. Each source is read once.

    Args:
        data: a source for all runs; by default the data that each run was trained on.
        max_skipped: the share of images that may be skipped because they cannot be read.
        progress: show progress bars on a terminal.
    """

    def __init__(
        self, data: str | None = None, *, max_skipped: float = MAX_SKIPPED, progress: bool = True
    ) -> None:
        self.data = data
        self.max_skipped = max_skipped
        self.progress = progress
        self._read: dict[tuple[str, InputSpec], tuple[ImageDataset, ImageDataset]] = {}

    def of(self, path: Path, record: RunRecord) -> tuple[ImageDataset, ImageDataset]:
        """Return training and test images at the input size of the run.

        Raises:
            DataError: If they cannot be read. The message names the run.
        """
        source, size = self.data or record.source, record.input
        if not source:
            raise DataError(f"{path} does not record where its images came from: give --data")
        if (source, size) not in self._read:
            try:
                self._read[source, size] = load_splits(
                    source, size=size, max_skipped=self.max_skipped, progress=self.progress
                )
            except DataError as error:
                advice = "" if self.data else "; name its images with --data"
                raise DataError(f"{path}: {error}{advice}") from None
        return self._read[source, size]

    @property
    def read(self) -> list[ImageDataset]:
        """All data sets that were read."""
        return [dataset for splits in self._read.values() for dataset in splits]


def measure_runs(
    paths: Sequence[Path],
    images: Images,
    measures: Collection[Group] | None,
    *,
    progress: bool = True,
) -> list[ComparedRun]:
    """Evaluate every run, except for groups that its ``evaluation.json`` already has.

    All runs are checked before any is measured, so a mistake costs no time. ``measures`` are those
    of `evaluate_run`.

    Raises:
        RunError: If a folder is not a run, is damaged, is given twice, or has no checkpoint.
        DataError: If the images of a run cannot be read.
        InvalidInput: If a measure does not exist.
    """
    seen: dict[Path, Path] = {}
    looked_at = []
    for path in paths:
        place = path.resolve()
        if place in seen:
            also = f", also as {seen[place]}" if seen[place] != path else ""
            raise RunError(f"{path} is given twice{also}")
        seen[place] = path
        run = Run(path)
        record = run.read_record()
        if record is None:
            hint = "; zoo evaluate measures packages" if is_package(path) else ""
            raise RunError(f"{path} is not a run: it has no run.json{hint}")
        checkpoint = run.read_checkpoint()
        if checkpoint is None:
            raise RunError(f"{path} has no checkpoint yet: run `zoo train` first")
        images.of(path, record)
        looked_at.append((run, record, checkpoint.step, checkpoint.wall_seconds))
    compared = []
    bar = tqdm(looked_at, "comparing", unit="run", disable=None if progress else True)
    for run, record, steps, wall_seconds in bar:
        bar.set_postfix_str(run.path.name)
        splits = images.of(run.path, record)
        compared.append(
            ComparedRun(
                path=run.path,
                record=record,
                report=evaluate_run(run.path, splits, measures, progress=progress),
                steps=steps,
                wall_seconds=wall_seconds,
                collapse=last_observation(run),
            )
        )
    return compared
