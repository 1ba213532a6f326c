"""The tasks that the labels of a data set pose.

Labels are one task. Attributes are one multi-label task, except for CelebA's, which pose three
tasks (the SimVAE paper uses the first two):

==============  ==============================================================================
``gender``      the attribute Male
``hair-colour`` black, blond, brown, grey or other, for images with at most one of the four
``attributes``  multi-label: the 20 attributes that are most balanced in the training split
==============  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.inputs import Labels

__all__ = ["BALANCED", "Task", "tasks_of"]

#: Number of CelebA attributes in the multi-label task.
BALANCED = 20

#: CelebA's attributes of hair colour, with their names in the task.
_HAIR: Mapping[str, str] = {
    "Black_Hair": "black",
    "Blond_Hair": "blond",
    "Brown_Hair": "brown",
    "Gray_Hair": "grey",
}

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task on all or some images of a data set.

    Attributes:
        name: name of the task, as used in the names of probes.
        classes: the possible answers, or the labels of a multi-label task.
        train: answers of training images, int64 ``[M]`` or bool ``[M, A]``.
        test: answers of test images, int64 ``[N]`` or bool ``[N, A]``.
        train_rows: bool mask of the training images that have an answer in ``train``.
        test_rows: the same mask for the test images.
    """

    name: str
    classes: tuple[str, ...]
    train: Labels
    test: Labels
    train_rows: Flags
    test_rows: Flags


def tasks_of(train: ImageDataset, test: ImageDataset, label: str = "class") -> list[Task]:
    """Return every task for which both splits have answers.

    Labels of a single class pose no task, because there is nothing to distinguish.

    Args:
        train: images with labels, attributes, both or neither.
        test: test images with the same classes and attribute names.
        label: name of the task that ``labels`` pose.
    """
    tasks = []
    if train.labels is not None and test.labels is not None and _count(train) > 1:
        tasks.append(_all_rows(label, train.classes, train.labels, test.labels))
    names = train.attribute_names
    if train.attributes is None or test.attributes is None:
        return tasks
    if {"Male", *_HAIR} <= set(names):
        tasks.append(_gender(names, train.attributes, test.attributes))
        tasks.append(_hair_colour(names, train.attributes, test.attributes))
        kept = _most_balanced(train.attributes)
        names = tuple(names[i] for i in kept)
        of_all = (train.attributes[:, kept], test.attributes[:, kept])
    else:
        of_all = (train.attributes, test.attributes)
    tasks.append(_all_rows("attributes", names, *of_all))
    return tasks


def _count(dataset: ImageDataset) -> int:
    """Return the number of classes that the labels can have."""
    assert dataset.labels is not None
    return len(dataset.classes) or int(dataset.labels.max()) + 1


def _gender(names: tuple[str, ...], train: Flags, test: Flags) -> Task:
    male = names.index("Male")
    answers = (flags[:, male].astype(np.int64) for flags in (train, test))
    return _all_rows("gender", ("female", "male"), *answers)


def _hair_colour(names: tuple[str, ...], train: Flags, test: Flags) -> Task:
    columns = [names.index(name) for name in _HAIR]
    answers, rows = [], []
    for flags in (train[:, columns], test[:, columns]):
        known = flags.sum(axis=1) <= 1
        colour = np.where(flags.any(axis=1), flags.argmax(axis=1), len(columns))
        answers.append(colour[known].astype(np.int64))
        rows.append(known)
    return Task("hair-colour", (*_HAIR.values(), "other"), *answers, *rows)


def _most_balanced(flags: Flags) -> NDArray[np.int64]:
    """Return the columns closest to half and half, in their own order."""
    order = np.argsort(np.abs(flags.mean(axis=0) - 0.5), kind="stable")
    return np.sort(order[:BALANCED])


def _all_rows(name: str, classes: tuple[str, ...], train: Labels, test: Labels) -> Task:
    return Task(name, classes, train, test, np.ones(len(train), bool), np.ones(len(test), bool))
