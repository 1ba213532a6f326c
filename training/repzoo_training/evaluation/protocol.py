"""The one protocol by which every representation is measured.

The representation is the encoder's output at the last checkpoint (the mean, of a posterior), before
any projection head. Nothing is chosen on the test set: k and the probes' settings are constants,
and both distances are reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput

from repzoo_training.data import ImageDataset
from repzoo_training.errors import DataError
from repzoo_training.evaluation.inputs import Embeddings, Labels
from repzoo_training.evaluation.knn import NEIGHBOURS, Distance, knn_predict
from repzoo_training.evaluation.probes import (
    L2,
    MLP_BATCH,
    MLP_LEARNING_RATE,
    MLP_STEPS,
    Head,
    linear_probe,
    mlp_probe,
)
from repzoo_training.evaluation.report import EvaluationReport, Measure, Protocol
from repzoo_training.evaluation.representation import (
    Representation,
    reconstruction_errors,
    represent,
)

__all__ = ["Evaluation", "evaluate", "evaluate_dataset"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The numbers, and the probes that gave some of them."""

    report: EvaluationReport
    heads: tuple[Head, ...]


def evaluate_dataset(
    representation: Representation,
    train: ImageDataset,
    test: ImageDataset,
    *,
    task: str = "class",
    k: int = NEIGHBOURS,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Embed both splits of a data set, and measure all that their labels allow.

    Labels make the task ``task``, attributes the multi-label task ``attributes``; where the
    representation can reconstruct, its error on the test images is measured too.

    Args:
        representation: anything with ``embed``: a run in torch, a ``repzoo.Encoder``.
        train: what neighbours are looked for in and probes are fitted to.
        test: what the numbers are of.
        task: name of the task that ``labels`` are of.
        k: neighbours.
        seed: of the MLP probe.
        batch_size: images that are embedded at a time.
        device: where neighbours and probes are computed; None for the GPU if there is one.
        progress: show bars, on a terminal only.

    Raises:
        DataError: if the splits differ in image shape, classes or attributes, or if there is
            nothing to measure.
    """
    for what in ("shape", "classes", "attribute_names"):
        ours, theirs = getattr(train, what), getattr(test, what)
        if ours != theirs:
            raise DataError(f"{test.name}: {what} of train is {ours}, of test {theirs}")
    train_z = represent(representation, train.images, batch_size=batch_size, progress=progress)
    test_z = represent(representation, test.images, batch_size=batch_size, progress=progress)

    measures: list[Measure] = []
    heads: list[Head] = []
    for name, classes, train_y, test_y in (
        (task, train.classes, train.labels, test.labels),
        ("attributes", train.attribute_names, train.attributes, test.attributes),
    ):
        if train_y is None or test_y is None:
            continue
        found, fitted = evaluate(
            train_z,
            train_y,
            test_z,
            test_y,
            task=name,
            classes=classes,
            k=k,
            seed=seed,
            device=device,
            progress=progress,
        )
        measures += found
        heads += fitted
    errors = reconstruction_errors(
        representation, test.images, batch_size=batch_size, progress=progress
    )
    if errors is not None:
        measures.append(
            Measure.of_scores(
                "reconstruction",
                errors.astype(np.float64),
                unit="mean squared error",
                protocol={"of": "pixel values in [0, 1]", "from": "embedding"},
            )
        )
    if not measures:
        raise DataError(f"{test.name} has no labels, and nothing reconstructs: nothing to measure")
    report = EvaluationReport(
        dataset=test.name,
        train_sha256=train.sha256,
        test_sha256=test.sha256,
        n_train=len(train),
        n_test=len(test),
        dim=test_z.shape[1],
        measures=tuple(measures),
    )
    return Evaluation(report, tuple(heads))


def evaluate(
    train_z: Embeddings,
    train_y: Labels,
    test_z: Embeddings,
    test_y: Labels,
    *,
    task: str = "class",
    classes: Sequence[str] = (),
    k: int = NEIGHBOURS,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> tuple[tuple[Measure, ...], tuple[Head, ...]]:
    """Measure embeddings by how well they predict one task's labels.

    Args:
        train_z: float ``[M, D]``, what neighbours are looked for in and probes are fitted to.
        train_y: int64 ``[M]``, or bool ``[M, A]`` for a multi-label task.
        test_z: float ``[N, D]``.
        test_y: labels ``[N]`` or ``[N, A]``.
        task: name of the task.
        classes: names of the classes or labels; their numbers if not given.
        k: neighbours.
        seed: of the MLP probe.
        device: where to compute; None for the GPU if there is one.
        progress: show bars, on a terminal only.

    Returns:
        The accuracies ``majority`` (always the commonest train label, which any other number has
        to be compared with), ``knn_cosine``, ``knn_euclidean``, ``linear`` and ``mlp``; and the
        two fitted heads. The accuracy of a multi-label task is the share of labels that are right.

    Raises:
        InvalidInput: if shapes, labels and classes do not fit, or k is not in 1 to M.
    """
    if train_y.shape[1:] != test_y.shape[1:] or len(test_y) != len(test_z):
        raise InvalidInput(
            f"labels are {list(train_y.shape)} for train and {list(test_y.shape)} for "
            f"{len(test_z)} test embeddings"
        )
    linear = linear_probe(train_z, train_y, task=task, classes=classes, device=device)
    mlp = mlp_probe(
        train_z, train_y, task=task, classes=classes, seed=seed, device=device, progress=progress
    )

    def accuracy(name: str, predicted: NDArray[np.generic], protocol: Protocol) -> Measure:
        right = (predicted == test_y).astype(np.float64)  # [N] or [N, A]
        by_class = None
        if right.ndim == 2:
            shares = right.mean(axis=0).tolist()
            by_class = dict(zip(linear.spec.classes, shares, strict=True))
            right = right.mean(axis=1)
        return Measure.of_scores(
            name, right, unit="accuracy", protocol=protocol, task=task, by_class=by_class
        )

    measures = [accuracy("majority", _commonest(train_y), {"predicts": "commonest train label"})]
    for distance in get_args(Distance):
        predicted = knn_predict(
            train_z, train_y, test_z, k=k, distance=distance, device=device, progress=progress
        )
        measures.append(
            accuracy(f"knn_{distance}", predicted, {"k": k, "distance": distance, "votes": "equal"})
        )
    measures.append(
        accuracy(
            "linear",
            linear.predict(test_z),
            {"inputs": "standardised", "l2": L2, "optimiser": "L-BFGS"},
        )
    )
    measures.append(
        accuracy(
            "mlp",
            mlp.predict(test_z),
            {
                "inputs": "standardised",
                "hidden units": train_z.shape[1],
                "optimiser": "Adam",
                "learning rate": MLP_LEARNING_RATE,
                "schedule": "cosine",
                "batch": min(MLP_BATCH, len(train_z)),
                "steps": MLP_STEPS,
                "seed": seed,
            },
        )
    )
    return tuple(measures), (linear, mlp)


def _commonest(labels: Labels) -> NDArray[np.generic]:
    """The commonest class; of a multi-label task, the commoner answer for each label."""
    if labels.ndim == 1:
        values, counts = np.unique(labels, return_counts=True)
        return values[[counts.argmax()]]
    return np.asarray(2 * labels.sum(axis=0) > len(labels))
