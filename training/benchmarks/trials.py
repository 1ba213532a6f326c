"""Trials: train, probe, and add the accuracies of several seeds to a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.runs import evaluate_run
from repzoo_training.loop.trainer import train
from repzoo_training.recipes.recipe import Recipe
from tables import add_rows

__all__ = ["Trials", "run"]

MEASURES = {
    "knn_euclidean": "k-NN euclidean, %",
    "knn_cosine": "k-NN cosine, %",
    "linear": "linear, %",
    "mlp": "MLP, %",
}


def run(
    recipe: Recipe, folder: Path, images: ImageDataset, queries: ImageDataset
) -> Mapping[str, float]:
    """Train on ``images``, probe with them, and return accuracies of ``queries`` in per cent.

    A finished run in ``folder`` is not trained again, and an interrupted one is resumed.
    """
    train(recipe, images, folder, progress=False)
    report = evaluate_run(folder, (images, queries), ("knn", "linear", "mlp"), progress=False)
    measures = {name: report.measure(name) for name in MEASURES}
    return {name: 100 * measure.value for name, measure in measures.items() if measure}


class Trials:
    """Prints accuracies, and adds them to a CSV file.

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
        for name in seeds[0]:
            values = [numbers[name] for numbers in seeds]
            error = f"{stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
            lines.append((*tried, len(seeds), MEASURES[name], f"{fmean(values):.1f}", error))
            print(*lines[-1], sep="\t", flush=True)
        if self.path is not None:
            add_rows(self.path, self.fields, lines)
