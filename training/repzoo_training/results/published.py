"""What others have published, to stand beside our numbers. Accuracies in per cent, as printed.

None of them is of our budget or protocol: the sources say what theirs was, and tables print it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["SOURCES", "Published", "Source", "Task", "published", "subject"]

#: A probe that a published number and one of our measures have in common, of the content unless a
#: task is named.
Task: TypeAlias = Literal["knn", "linear", "mlp", "hair-colour mlp"]


@dataclass(frozen=True)
class Source:
    """Where numbers are from.

    Attributes:
        title: as a table's column names it, short.
        setting: what they are of, for the line below the table.
        network: the encoder; None where it is the one that the recipes here take.
    """

    title: str
    setting: str
    network: str | None = None


SOURCES = {
    "paper": Source(
        "paper",
        "SimVAE paper, arXiv:2402.01399, Table 1: frozen representations, k-NN and MLP probe (the "
        "best k, and the best epoch of the probe, on the test set), mean ± standard error of 3 "
        "runs; 400 epochs; CelebA: gender, all 162,770 training images",
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


@dataclass(frozen=True)
class Published:
    """One number, in per cent, with its standard error where one is printed."""

    source: str
    task: Task
    value: float
    error: float | None = None


#: Table 1: MLP probe and k-NN, each with its standard error, or None where it prints none.
_SIMVAE_PAPER: dict[str, dict[str, tuple[float, float | None, float, float | None]]] = {
    "mnist": {
        "random": (38.1, 3.8, 46.1, 2.5),
        "simclr": (97.2, None, 97.2, 0.1),
        "moco": (94.6, 0.4, 94.6, 0.3),
        "vicreg": (96.7, None, 97.0, None),
        "vae": (97.8, 0.1, 98.0, 0.1),
        "beta-vae": (98.0, None, 98.3, None),
        "cr-vae": (97.7, None, 98.0, None),
        "simvae": (98.4, None, 98.5, None),
    },
    "fashion_mnist": {
        "random": (49.8, 0.8, 66.5, 0.4),
        "simclr": (74.9, 0.2, 76.0, 0.1),
        "moco": (71.2, 0.1, 76.9, 0.2),
        "vicreg": (73.2, 0.1, 76.0, 0.1),
        "vae": (80.2, 0.3, 83.7, 0.2),
        "beta-vae": (82.2, 0.1, 86.1, None),
        "cr-vae": (82.6, None, 86.4, None),
        "simvae": (82.1, None, 86.5, None),
    },
    "celeba": {
        "random": (83.5, 1.0, 80.0, 0.9),
        "simclr": (93.7, 0.4, 91.6, 0.3),
        "moco": (89.7, 1.0, 88.6, 1.0),
        "vicreg": (94.7, 0.1, 92.7, 0.4),
        "vae": (89.0, 0.5, 86.9, 0.7),
        "beta-vae": (93.4, 0.4, 92.0, 0.1),
        "cr-vae": (93.1, 0.4, 91.6, 0.6),
        "simvae": (95.6, 0.4, 93.2, 0.1),
    },
    "cifar10": {
        "random": (16.3, 0.4, 13.1, 0.6),
        "simclr": (67.4, 0.1, 64.0, None),
        "moco": (56.4, 1.6, 54.0, 2.0),
        "vicreg": (69.7, None, 68.3, None),
        "vae": (30.3, 0.4, 25.6, 0.5),
        "beta-vae": (36.6, 0.1, 28.5, 0.1),
        "cr-vae": (36.8, None, 28.1, 0.1),
        "simvae": (51.8, None, 47.1, None),
    },
}

#: Hair colour on CelebA: MLP probe. Standard errors are 0.2 to 0.8, whose is whose is not at hand.
_SIMVAE_PAPER_HAIR = {
    "random": 56.2,
    "simclr": 52.0,
    "vicreg": 52.8,
    "vae": 64.4,
    "beta-vae": 66.4,
    "cr-vae": 66.2,
    "simvae": 67.5,
}

#: CIFAR-10, ResNet-18 with a 3×3 stem: k-NN after 200 and after 800 epochs.
_LIGHTLY = {
    "simclr": (84.8, 87.9),
    "moco": (84.7, 89.9),
    "byol": (86.8, 91.0),
    "barlow-twins": (84.2, 85.9),
    "dino": (84.0, 84.8),
}

#: CIFAR-10, ResNet-18 with a 3×3 stem: linear probe after 1000 epochs.
_SOLO_LEARN = {
    "simclr": 90.74,
    "moco": 92.94,
    "byol": 92.58,
    "barlow-twins": 92.10,
    "vicreg": 92.07,
    "w-mse": 88.67,
    "dino": 89.52,
}


def subject(dataset: str) -> str | None:
    """The published data set that ``dataset``, as a source is called, is or is part of."""
    name = dataset.lower().replace("-", "_")
    aliases = {"fashionmnist": "fashion_mnist", "cifar_10": "cifar10"}
    name = aliases.get(name, name)
    if name.startswith("celeba"):
        return "celeba"
    return name if name in _SIMVAE_PAPER else None


def published(dataset: str, method: str, network: str) -> tuple[Published, ...]:
    """Every number of ``method`` on ``dataset``; of another network than ours only the paper's.

    Args:
        dataset: name of the data set, in any of its spellings.
        method: name in the registry.
        network: kind of the encoder that it would stand beside.
    """
    return tuple(
        number
        for number in _all(subject(dataset), method)
        if SOURCES[number.source].network in (None, network)
    )


def _all(dataset: str | None, method: str) -> Iterator[Published]:
    if dataset is not None and method in _SIMVAE_PAPER[dataset]:
        mlp, mlp_error, knn, knn_error = _SIMVAE_PAPER[dataset][method]
        yield Published("paper", "knn", knn, knn_error)
        yield Published("paper", "mlp", mlp, mlp_error)
    if dataset == "celeba" and method in _SIMVAE_PAPER_HAIR:
        yield Published("paper", "hair-colour mlp", _SIMVAE_PAPER_HAIR[method])
    if dataset != "cifar10":
        return
    if method in _LIGHTLY:
        for source, value in zip(("lightly 200", "lightly 800"), _LIGHTLY[method], strict=True):
            yield Published(source, "knn", value)
    if method in _SOLO_LEARN:
        yield Published("solo-learn", "linear", _SOLO_LEARN[method])
