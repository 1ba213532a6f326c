"""Fit a probe to all images, and measure it on parts that were left out of the fit."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repzoo_training.data import ImageDataset
from repzoo_training.errors import DataError
from repzoo_training.evaluation.inputs import Labels
from repzoo_training.evaluation.probes import Head, linear_probe, mlp_probe
from repzoo_training.probing.labels import Answers
from repzoo_training.probing.report import CONFUSED, ClassCounts, Confused, ProbeReport

__all__ = ["KINDS", "CrossValidated", "cross_validate", "folds_of"]

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]

#: The probes that can be fitted.
KINDS = ("linear", "mlp")


class CrossValidated(NamedTuple):
    """A probe and its numbers."""

    #: Fitted to all images.
    head: Head
    report: ProbeReport
    #: How often each class (row) was predicted as each (column), int64 ``[K, K]``; for a
    #: multi-label task, absent and present against predicted so, ``[A, 2, 2]``.
    confusion: Counts


def cross_validate(
    embeddings: Floats,
    dataset: ImageDataset,
    answers: Answers,
    *,
    task: str,
    kind: str = "linear",
    folds: int = 5,
    test: tuple[Floats, Labels] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> CrossValidated:
    """Fit a probe, and predict each image with a probe that was fitted without it.

    Copies of one file, and images of one group, are always left out together.

    Args:
        embeddings: float32 ``[N, D]`` of the data set's images.
        dataset: N images.
        answers: the labels of M of them.
        task: the name of the task.
        kind: ``linear`` or ``mlp``, see `linear_probe` and `mlp_probe`.
        folds: the number of parts.
        test: embeddings ``[T, D]`` and labels of test images.
        seed: decides the parts and the initial weights of an MLP.
        progress: show progress bars on a terminal.

    Raises:
        DataError: If a class has fewer than two different images, or there are fewer different
            images than parts.
        InvalidInput: If the embeddings are not finite.
    """
    z, y, classes = embeddings[answers.rows], answers.values, answers.classes
    part = folds_of(answers, _things(dataset)[answers.rows], folds, seed)

    def fit(rows: NDArray[np.bool_]) -> Head:
        if kind == "linear":
            return linear_probe(z[rows], y[rows], task=task, classes=classes)
        return mlp_probe(z[rows], y[rows], task=task, classes=classes, seed=seed, progress=progress)

    said = np.empty_like(y)
    for fold in range(folds):
        said[part == fold] = fit(part != fold).predict(z[part == fold])
    head = fit(np.ones(len(z), bool))
    confusion = _confusion(y, said, len(classes))
    right = (said == y).reshape(len(y), -1).mean(axis=1)  # [M]
    report = ProbeReport(
        task=task,
        kind=kind,
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        images=len(z),
        folds=folds,
        seed=seed,
        multi_label=answers.multi_label,
        accuracy=float(right.mean()),
        standard_error=float(right.std() / math.sqrt(len(right))),
        majority=_majority(y),
        exact=float((right == 1).mean()) if answers.multi_label else None,
        test_accuracy=None if test is None else float((head.predict(test[0]) == test[1]).mean()),
        test_images=0 if test is None else len(test[0]),
        classes=_counts(confusion, classes),
        confused=() if answers.multi_label else _confused(confusion, classes),
    )
    return CrossValidated(head, report, confusion)


def folds_of(answers: Answers, things: Counts, folds: int, seed: int) -> Counts:
    """Return the part of each image, int64 ``[M]`` in ``[0, folds)``.

    Every part gets its share of each class, or of each combination of labels.

    Args:
        answers: the labels of M images.
        things: int64 ``[M]``. Images of one thing are in one part.
        folds: the number of parts.
        seed: decides the parts.

    Raises:
        DataError: If a class or the whole has too few different things.
    """
    _, first, thing = np.unique(things, return_index=True, return_inverse=True)
    _check_counts(answers, thing)
    if len(first) < folds:
        raise DataError(f"{len(first)} different images cannot be divided into {folds} parts")
    _, stratum = np.unique(answers.values[first], axis=0, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(stratum.reshape(-1)[order], kind="stable")]
    part = np.empty(len(first), np.int64)
    part[order] = np.arange(len(first)) % folds
    return part[thing]


def _things(dataset: ImageDataset) -> Counts:
    """Return a number per image, int64 ``[N]``, that is equal for images of one thing."""
    if dataset.groups is not None:
        return dataset.groups
    if dataset.contents is None:
        return np.arange(len(dataset))
    inverse: Counts = np.unique(dataset.contents, return_inverse=True)[1]
    return inverse


def _check_counts(answers: Answers, thing: Counts) -> None:
    """Check that every class can be learned when one of its images is left out."""
    values = answers.values
    for number, name in enumerate(answers.classes):
        if answers.multi_label:
            sides = {"with": values[:, number], "without": ~values[:, number]}
        else:
            sides = {"of": values == number}
        for side, rows in sides.items():
            if (found := len(np.unique(thing[rows]))) < 2:
                what = "label" if answers.multi_label else "class"
                raise DataError(
                    f"there {'is 1 image' if found else 'are no images'} {side} the {what} "
                    f"{name!r}; a probe needs two different ones, and better twenty or more"
                )


def _confusion(y: Labels, said: Labels, count: int) -> Counts:
    if y.ndim == 1:
        pairs = np.bincount(y.astype(np.int64) * count + said, minlength=count * count)
        return pairs.reshape(count, count)
    table = [[(a & b).sum(axis=0) for b in (~said, said)] for a in (~y, y)]  # [2, 2, A]
    return np.moveaxis(np.array(table), -1, 0)


def _counts(confusion: Counts, classes: tuple[str, ...]) -> tuple[ClassCounts, ...]:
    if confusion.ndim == 3:
        right, wrong, missed = confusion[:, 1, 1], confusion[:, 0, 1], confusion[:, 1, 0]
    else:
        right = confusion.diagonal()
        wrong, missed = confusion.sum(axis=0) - right, confusion.sum(axis=1) - right
    return tuple(
        ClassCounts(
            name=name,
            true_positives=int(right[number]),
            false_positives=int(wrong[number]),
            false_negatives=int(missed[number]),
        )
        for number, name in enumerate(classes)
    )


def _confused(confusion: Counts, classes: tuple[str, ...]) -> tuple[Confused, ...]:
    off = confusion * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-off, axis=None, kind="stable")[:CONFUSED]
    pairs = zip(*np.unravel_index(order, off.shape), strict=True)
    return tuple(Confused(classes[i], classes[j], int(off[i, j])) for i, j in pairs if off[i, j])


def _majority(y: Labels) -> float:
    """Return the accuracy of always giving the commonest answer."""
    if y.ndim == 1:
        return float(np.bincount(y).max() / len(y))
    present = y.mean(axis=0)
    return float(np.maximum(present, 1 - present).mean())
