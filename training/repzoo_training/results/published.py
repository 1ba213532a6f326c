"""Published numbers to compare with. Accuracies in per cent, as printed.

The budgets and protocols differ from ours. Each source states its own, and tables print it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = ["SIZES", "SOURCES", "Published", "Source", "Task", "published", "rows", "subject"]

#: A probe that a published number and one of our measures have in common. It predicts the content
#: of an image, unless a task is named.
Task: TypeAlias = Literal["knn", "linear", "mlp", "hair-colour mlp"]

_DATA = Path(__file__).with_name("data") / "published.csv"


@dataclass(frozen=True)
class Source:
    """A publication.

    Attributes:
        title: short name for the head of a table's column.
        setting: how the numbers were measured, for the note below the table.
        network: kind of the encoder, or None if the recipes here use the same one.
    """

    title: str
    setting: str
    network: str | None = None


SOURCES = {
    "paper": Source(
        "paper",
        "SimVAE paper, arXiv:2402.01399, Table 1: frozen representations, k-NN and MLP probe (the "
        "best k, and the best epoch of the probe, on the test set), mean ± standard error of 3 "
        "runs; 400 epochs; CelebA: gender, all 162,770 training images. The paper also prints "
        "standard errors of 0.2 to 0.8 for hair colour, which are not transcribed here",
    ),
    "lightly 200": Source(
        "lightly, 200 epochs",
        "lightly's CIFAR-10 benchmark: ResNet-18, weighted k-NN, best epoch on the test set",
        network="resnet18",
    ),
    "lightly 800": Source(
        "lightly, 800 epochs",
        "lightly's CIFAR-10 benchmark: ResNet-18, weighted k-NN, best epoch on the test set",
        network="resnet18",
    ),
    "solo-learn": Source(
        "solo-learn, 1000 epochs",
        "solo-learn's CIFAR-10 results: ResNet-18, linear probe (MoCo is v2+)",
        network="resnet18",
    ),
}

#: The numbers of training and test images that published numbers are about, by `subject`.
SIZES = {
    "mnist": (60_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "celeba": (162_770, 19_962),
}


@dataclass(frozen=True)
class Published:
    """One number in per cent, with its standard error if `published.csv` has it."""

    source: str
    task: Task
    value: float
    error: float | None = None


@cache
def rows() -> Sequence[Mapping[str, str]]:
    """Return the rows of `published.csv`: source, dataset, method, task, value, standard_error."""
    with _DATA.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def subject(dataset: str) -> str | None:
    """Return the published name of a data set, or None if nothing was published about it.

    Args:
        dataset: name of the data set in any spelling. Subsets of CelebA count as CelebA.
    """
    name = dataset.lower().replace("-", "_")
    name = {"fashionmnist": "fashion_mnist", "cifar_10": "cifar10"}.get(name, name)
    if name.startswith("celeba"):
        return "celeba"
    return name if any(row["dataset"] == name for row in rows()) else None


def published(dataset: str, method: str, network: str) -> tuple[Published, ...]:
    """Return every published number of a method on a data set.

    Args:
        dataset: name of the data set in any spelling.
        method: name in the registry of methods.
        network: kind of our encoder. Numbers that belong to another network are left out.
    """
    name = subject(dataset)
    return tuple(
        Published(
            row["source"],
            row["task"],  # type: ignore[arg-type]
            float(row["value"]),
            float(row["standard_error"]) if row["standard_error"] else None,
        )
        for row in rows()
        if (row["dataset"], row["method"]) == (name, method)
        and SOURCES[row["source"]].network in (None, network)
    )
