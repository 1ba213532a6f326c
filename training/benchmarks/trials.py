"""Trials: train, probe, and add the accuracies of several seeds to a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.report import Group
from repzoo_training.evaluation.runs import evaluate_run
from repzoo_training.loop.allocator import keep_freed_memory
from repzoo_training.loop.trainer import train
from repzoo_training.recipes.recipe import Recipe
from tables import add_rows

__all__ = ["Trials", "run"]

MEASURES = {
    "knn_euclidean": "k-NN euclidean, %",
    "knn_cosine": "k-NN cosine, %",
    "linear": "linear, %",
    "mlp": "MLP, %",
    "linear_fit": "linear",
    "invariance": "invariance",
}


def run(
    recipe: Recipe,
    folder: Path,
    images: ImageDataset,
    queries: ImageDataset,
    measures: Collection[Group] = ("knn", "linear", "mlp"),
) -> dict[str, float]:
    """Train on ``images``, probe with them, and return the measures of ``queries`` by their labels.

    If there are several tasks, a label begins with the task's name. Accuracies are in per cent. A
    finished run in ``folder`` is not trained again, and an interrupted one is resumed.
    """
    keep_freed_memory()
    train(recipe, images, folder, progress=False)
    report = evaluate_run(folder, (images, queries), measures, progress=False)
    found = [measure for measure in report.measures if measure.name in MEASURES]
    several = len({measure.task for measure in found}) > 1
    numbers = {}
    for m in found:
        label = MEASURES[m.name]
        if m.name == "linear_fit":
            label += ", %" if m.unit == "accuracy" else f", {m.unit}"
        if several and m.task:
            label = f"{m.task.removeprefix('style_')}, {label}"
        numbers[label] = 100 * m.value if m.unit == "accuracy" else m.value
    return numbers


class Trials:
    """Prints measures, and adds them to a CSV file.

    Args:
        path: The file, or None to print only.
        columns: The names of the columns that say what was tried.
    """

    def __init__(self, path: Path | None, columns: Sequence[str]) -> None:
        self.path = path
        self.fields = (*columns, "seeds", "measure", "value", "standard_error")

    def add(self, tried: Sequence[object], seeds: Sequence[Mapping[str, float]]) -> None:
        """Add the means over seeds, with their standard errors if there are several seeds.

        Args:
            tried: The values of ``columns``.
            seeds: The result of `run` for each seed.
        """
        lines = []
        for label in seeds[0]:
            values = [numbers[label] for numbers in seeds]
            digits = 1 if label.endswith("%") else 2
            error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
            lines.append(
                (
                    *(*tried, len(seeds), label),
                    f"{fmean(values):.{digits}f}",
                    "" if error is None else f"{error:.{digits}f}",
                )
            )
            print(*lines[-1], sep="\t", flush=True)
        if self.path is not None:
            add_rows(self.path, self.fields, lines)
