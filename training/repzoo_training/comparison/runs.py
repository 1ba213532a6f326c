"""Runs to compare: what was trained, what it cost, and what it reaches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repzoo_training.data import ImageDataset, load
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
        path: its folder.
        record: what was trained, on what.
        report: what was measured.
        steps: optimiser steps behind the weights.
        wall_seconds: time spent on them.
        collapse: what was last watched for collapse while training; empty if nothing.
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
    """The images that runs are measured on, each source read once.

    Args:
        data: a source for all runs; by default what each was trained on.
        progress: show bars, on a terminal only.
    """

    def __init__(self, data: str | None = None, *, progress: bool = True) -> None:
        self.data = data
        self.progress = progress
        self._read: dict[tuple[str, tuple[int, int, int]], tuple[ImageDataset, ImageDataset]] = {}

    def of(self, path: Path, record: RunRecord) -> tuple[ImageDataset, ImageDataset]:
        """Train and test images, at the size that the run takes.

        Raises:
            DataError: if they cannot be read; the message names the run.
        """
        source, size = self.data or record.source, record.recipe.input
        if not source:
            raise DataError(f"{path} does not say where its images came from: give --data")
        if (source, size) not in self._read:
            try:
                train = load(source, "train", size=size, progress=self.progress)
                test = load(source, "test", size=size, progress=self.progress)
            except DataError as error:
                advice = "" if self.data else "; name its images with --data"
                raise DataError(f"{path}: {error}{advice}") from None
            self._read[source, size] = train, test
        return self._read[source, size]


def measure_runs(
    paths: Sequence[Path],
    images: Images,
    measures: Collection[Group],
    *,
    progress: bool = True,
) -> list[ComparedRun]:
    """Evaluate every run, but for what its ``evaluation.json`` already has.

    All runs are looked at before any is measured, so that a mistake costs no time.

    Raises:
        RunError: if one is no run, has no checkpoint, is damaged, or is given twice.
        DataError: if its images cannot be read.
        InvalidInput: for a measure that does not exist.
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
            raise RunError(f"{path} holds no run: no run.json")
        checkpoint = run.read_checkpoint()
        if checkpoint is None:
            raise RunError(f"{path} has no checkpoint yet: run `zoo train` first")
        images.of(path, record)
        looked_at.append((run, record, checkpoint.step, checkpoint.wall_seconds))
    return [
        ComparedRun(
            path=run.path,
            record=record,
            report=evaluate_run(run.path, images.of(run.path, record), measures, progress=progress),
            steps=steps,
            wall_seconds=wall_seconds,
            collapse=last_observation(run),
        )
        for run, record, steps, wall_seconds in looked_at
    ]
