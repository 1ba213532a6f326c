"""What each layer of a trained encoder knows: features, embedding, and projection head.

    python training/benchmarks/layers.py runs/simclr-cifar10 --csv docs/results/layers.csv

The features are what the backbone computes, the embedding is what a package returns, and the
projection is what the loss of a discriminative method compares (Chen et al. 2020, "A Simple
Framework for Contrastive Learning of Visual Representations", section 4.2). Every layer is measured
by cosine k-NN and a linear probe on the same images: up to 20,000 training and all test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo_training.data import ImageDataset, load
from repzoo_training.evaluation.protocol import evaluate
from repzoo_training.evaluation.tasks import tasks_of
from repzoo_training.loop.step import build_objective
from repzoo_training.objectives import METHODS
from repzoo_training.run import Run
from repzoo_training.views.views import ViewSpec
from tables import add_rows
from torch import Tensor
from tqdm import tqdm

GALLERY, BATCH = 20_000, 500
MEASURES = {"knn_cosine": "k-NN cosine, %", "linear": "linear, %"}
FIELDS = ("dataset", "task", "method", "views", "layer", "D", "measure", "value", "standard_error")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", help="default: the data that each run was trained on")
    parser.add_argument("--csv", type=Path, help="add the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for path in arguments.runs:
        rows = measure(path, arguments.data)
        for row in rows:
            print(*row, sep="\t")
        if arguments.csv:
            add_rows(arguments.csv, FIELDS, rows)


def measure(path: Path, source: str | None) -> list[tuple[object, ...]]:
    """Return one row per task, layer and measure of the run at ``path``."""
    run = Run(path)
    record = run.read_record()
    if record is None:
        raise SystemExit(f"{path} holds no run: no run.json")
    recipe = record.recipe
    objective = build_objective(recipe, record.dataset_images)
    checkpoint = run.load_weights(objective)
    objective.requires_grad_(False).eval()
    train, test = (load(source or record.source, s, size=recipe.input) for s in ("train", "test"))
    queries = layers(objective, recipe.augmentation, test, np.arange(len(test)))
    rows: list[tuple[object, ...]] = []
    for task in tasks_of(train, test):
        if task.train.ndim > 1:
            continue
        chosen = np.flatnonzero(task.train_rows)[:GALLERY]
        gallery = layers(objective, recipe.augmentation, train, chosen)
        for layer, z in gallery.items():
            found, _ = evaluate(
                z,
                task.train[: len(chosen)],
                queries[layer][task.test_rows],
                task.test,
                measures=("knn", "linear"),
                task=task.name,
                classes=task.classes,
                progress=False,
            )
            rows += [
                (
                    *(test.name, task.name, METHODS[recipe.method].title),
                    *(checkpoint.step * recipe.views_per_step, layer, z.shape[1]),
                    *(title, f"{100 * m.value:.1f}", f"{100 * m.standard_error:.1f}"),
                )
                for name, title in MEASURES.items()
                for m in found
                if m.name == name
            ]
    return rows


def layers(
    objective: Any, views: ViewSpec, dataset: ImageDataset, rows: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Return float32 ``[len(rows), D]`` of each layer that the objective has."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    for batch in tqdm(np.array_split(rows, -(-len(rows) // BATCH)), disable=None, leave=False):
        x = torch.from_numpy(dataset.images[batch]).permute(0, 3, 1, 2).float() / 255
        features = objective.encoder.backbone(views.finish(x))  # [N, F]
        embedding: Tensor = objective.encoder.head(features)  # [N, D], or [N, 2 D] of a posterior
        if hasattr(objective, "likelihood"):
            embedding = embedding.chunk(2, dim=1)[0]
        outputs = {"features": features, "embedding": embedding}
        if hasattr(objective, "projector"):
            outputs["projection"] = objective.projector(embedding)
        for name, z in outputs.items():
            found.setdefault(name, []).append(z.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


if __name__ == "__main__":
    main()
