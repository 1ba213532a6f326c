"""What a data set's labels ask of a representation.

Labels are one task. Attributes are one multi-label task, but for CelebA's, of which the field asks
three things (the SimVAE paper the first two):

==============  ==============================================================================
``gender``      the attribute Male
``hair-colour`` black, blond, brown, grey or other, of images that have at most one of the four
``attributes``  the 20 that are nearest to half and half in the train split, multi-label
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

#: Attributes of CelebA that the multi-label task has.
BALANCED = 20

#: CelebA's attributes of hair colour, and what the task calls them.
_HAIR: Mapping[str, str] = {
    "Black_Hair": "black",
    "Blond_Hair": "blond",
    "Brown_Hair": "brown",
    "Gray_Hair": "grey",
}

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Task:
    """One question to all images of a data set, or to some.

    Attributes:
        name: of the task, as probes are called by.
        classes: the possible answers, or the labels of a multi-label task.
        train: answers, int64 ``[M]`` or bool ``[M, A]``.
        test: the same, ``[N]`` or ``[N, A]``.
        train_rows: bool, which train images have an answer; ``train`` has no others.
        test_rows: the same of the test images.
    """

    name: str
    classes: tuple[str, ...]
    train: Labels
    test: Labels
    train_rows: Flags
    test_rows: Flags


def tasks_of(train: ImageDataset, test: ImageDataset, label: str = "class") -> list[Task]:
    """Every task that both splits have answers for.

    Args:
        train: images with labels, attributes, both or neither.
        test: the same, with the same classes and attribute names.
        label: name of the task that ``labels`` are of.
    """
    tasks = []
    if train.labels is not None and test.labels is not None:
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
    """The columns nearest to half and half, in their own order."""
    order = np.argsort(np.abs(flags.mean(axis=0) - 0.5), kind="stable")
    return np.sort(order[:BALANCED])


def _all_rows(name: str, classes: tuple[str, ...], train: Labels, test: Labels) -> Task:
    return Task(name, classes, train, test, np.ones(len(train), bool), np.ones(len(test), bool))
