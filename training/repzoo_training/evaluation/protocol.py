"""The protocol that measures every representation.

The representation is the encoder's output at the last checkpoint, before any projection head. If
the encoder has a posterior, it is the mean. Nothing is chosen on the test set: k and the settings
of the probes are constants, and both distances are reported.

Measures are chosen by group:

==================  ==========================================================================
``knn``             k nearest neighbours, by both distances
``linear``          logistic regression
``mlp``             a probe with one hidden layer
``clustering``      a Gaussian mixture fitted without labels: accuracy, NMI, ARI
``reconstruction``  error of the representation's own decoder, if it has one
``style``           what it reveals about crops and flips; see the module ``style``
``invariance``      how close views of one image are; see the module ``invariance``
``decoder``         error of a decoder trained on the frozen representation, for any method
``fid``             Fréchet distances in features of a CNN trained on the data set's labels
``inception``       Fréchet distances in features of Inception-v3, with weights from a file
==================  ==========================================================================

The last four are not part of ``DEFAULT_GROUPS``; the last three take minutes on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from tqdm import tqdm

from repzoo_training.data import ImageDataset
from repzoo_training.errors import DataError
from repzoo_training.evaluation.clustering import measure_clusters
from repzoo_training.evaluation.fid import CNNFeatures, Features, InceptionFeatures, measure_fid
from repzoo_training.evaluation.inputs import Embeddings, Labels
from repzoo_training.evaluation.invariance import measure_invariance
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
from repzoo_training.evaluation.report import EvaluationReport, Group, Measure, Protocol
from repzoo_training.evaluation.representation import (
    Representation,
    reconstruction_errors,
    represent,
)
from repzoo_training.evaluation.style import measure_style
from repzoo_training.evaluation.tasks import tasks_of

__all__ = [
    "DEFAULT_GROUPS",
    "SUITE",
    "Evaluation",
    "FrozenDecoder",
    "check_groups",
    "evaluate",
    "evaluate_dataset",
]

#: Version of the protocols. Numbers of different versions are never compared or reused.
SUITE = 1

#: Groups that together take about a minute on MNIST with one core.
DEFAULT_GROUPS: tuple[Group, ...] = (
    "knn",
    "linear",
    "mlp",
    "clustering",
    "reconstruction",
    "style",
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The numbers, and the probes behind some of them."""

    report: EvaluationReport
    heads: tuple[Head, ...]


@dataclass(frozen=True, eq=False)
class FrozenDecoder:
    """How the group ``decoder`` gets its decoder.

    Attributes:
        train: returns the frozen representation with a decoder trained on it.
        protocol: describes that training.
    """

    train: Callable[[], Representation]
    protocol: Protocol


def evaluate_dataset(
    representation: Representation,
    train: ImageDataset,
    test: ImageDataset,
    *,
    measures: Collection[Group] = DEFAULT_GROUPS,
    decoder: FrozenDecoder | None = None,
    inception: str | Path | None = None,
    task: str = "class",
    k: int = NEIGHBOURS,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Embed both splits of a data set and measure the chosen groups.

    Labels pose the task ``task``, and attributes the multi-label task ``attributes``; CelebA's pose
    three tasks, see `repzoo_training.evaluation.tasks`. A group whose labels or decoder are missing
    measures nothing.

    Args:
        representation: anything with ``embed``, such as a run in torch or a ``repzoo.Encoder``.
        train: the gallery of the neighbours, and the data that probes are fitted to.
        test: the images that the numbers describe.
        measures: groups to measure; see the module.
        decoder: needed by the group ``decoder``.
        inception: file of torchvision's weights, needed by the group ``inception``.
        task: name of the task that ``labels`` pose.
        k: number of neighbours. If the gallery is smaller, all of it votes.
        seed: decides everything random.
        batch_size: images per call of ``embed``.
        device: where neighbours and probes are computed; by default the GPU if there is one.
        progress: show progress bars on a terminal.

    Raises:
        DataError: If the splits differ in image shape, classes or attributes, or if there is
            nothing to measure.
        InvalidInput: If a group does not exist, or its decoder or weights are missing.
    """
    groups = check_groups(measures)
    if "decoder" in groups and decoder is None:
        raise InvalidInput("the group decoder needs a run, because the decoder mirrors its network")
    if "inception" in groups and inception is None:
        raise InvalidInput("the group inception needs a file with the weights of Inception-v3")
    for what in ("shape", "classes", "attribute_names"):
        ours, theirs = getattr(train, what), getattr(test, what)
        if ours != theirs:
            raise DataError(f"{test.name}: {what} of train is {ours}, but of test {theirs}")
    train_z = represent(representation, train.images, batch_size=batch_size, progress=progress)
    test_z = represent(representation, test.images, batch_size=batch_size, progress=progress)

    found: list[Measure] = []
    heads: list[Head] = []
    for each in tasks_of(train, test, task):
        of_task, fitted = evaluate(
            train_z[each.train_rows],
            each.train,
            test_z[each.test_rows],
            each.test,
            measures=groups,
            task=each.name,
            classes=each.classes,
            k=k,
            seed=seed,
            device=device,
            progress=progress,
        )
        found += of_task
        heads += fitted
    if "reconstruction" in groups:
        found += _reconstruction(
            "reconstruction", representation, test, {"from": "embedding"}, batch_size, progress
        )
    for views, measure in (("style", measure_style), ("invariance", measure_invariance)):
        if views in groups:
            found += measure(
                representation,
                train.images,
                test.images,
                seed=seed,
                batch_size=batch_size,
                device=device,
                progress=progress,
            )
    if "decoder" in groups and decoder is not None:
        found += _reconstruction(
            "decoder_reconstruction",
            decoder.train(),
            test,
            decoder.protocol,
            batch_size,
            progress,
        )
    makers: dict[Group, Callable[[], Features]] = {
        "fid": lambda: CNNFeatures(
            train.images,
            train.labels if train.labels is not None else train.attributes,
            seed=seed,
            device=device,
            progress=progress,
        ),
        "inception": lambda: InceptionFeatures(str(inception), device=device),
    }
    for group, make in makers.items():
        if group in groups:
            found += measure_fid(
                representation,
                make,
                train.images,
                test.images,
                seed=seed,
                batch_size=batch_size,
                device=device,
                progress=progress,
            )
    if not found:
        raise DataError(
            f"{test.name}: there is nothing to measure for {', '.join(groups)}: the images have no "
            "usable labels and the model has no decoder"
        )
    report = EvaluationReport(
        dataset=test.name,
        train_sha256=train.sha256,
        test_sha256=test.sha256,
        n_train=len(train),
        n_test=len(test),
        dim=test_z.shape[1],
        measures=tuple(found),
        groups=groups,
        suite=SUITE,
    )
    return Evaluation(report, tuple(heads))


def _reconstruction(
    name: str,
    representation: Representation,
    test: ImageDataset,
    protocol: Protocol,
    batch_size: int,
    progress: bool,
) -> list[Measure]:
    """Return the error of the representation's decoder, or nothing without a decoder."""
    errors = reconstruction_errors(
        representation, test.images, batch_size=batch_size, progress=progress
    )
    if errors is None:
        return []
    return [
        Measure.of_scores(
            name,
            errors.astype(np.float64),
            unit="mean squared error",
            protocol={"of": "pixel values in [0, 1]", **protocol},
        )
    ]


def check_groups(measures: Collection[str]) -> tuple[Group, ...]:
    """Return the named groups, each once, in their standard order.

    Raises:
        InvalidInput: If a group does not exist, or the collection is empty.
    """
    known: tuple[Group, ...] = get_args(Group)
    unknown = [name for name in measures if name not in known]
    if unknown or not measures:
        named = ", ".join(map(repr, unknown)) or "nothing"
        raise InvalidInput(f"cannot measure {named}; choose from {', '.join(known)}")
    return tuple(name for name in known if name in measures)


def evaluate(
    train_z: Embeddings,
    train_y: Labels,
    test_z: Embeddings,
    test_y: Labels,
    *,
    measures: Collection[Group] = DEFAULT_GROUPS,
    task: str = "class",
    classes: Sequence[str] = (),
    k: int = NEIGHBOURS,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> tuple[tuple[Measure, ...], tuple[Head, ...]]:
    """Measure how well embeddings predict the labels of one task.

    Args:
        train_z: embeddings of the gallery, to which probes are fitted too, float ``[M, D]``.
        train_y: int64 ``[M]``, or bool ``[M, A]`` for a multi-label task.
        test_z: test embeddings, float ``[N, D]``.
        test_y: labels ``[N]`` or ``[N, A]``.
        measures: groups to measure. Groups that do not use labels are ignored.
        task: name of the task.
        classes: names of the classes or labels; by default their numbers.
        k: number of neighbours. If M is smaller, all of them vote.
        seed: decides the MLP probe and the clusters.
        device: where to compute; by default the GPU if there is one.
        progress: show progress bars on a terminal.

    Returns:
        The measures, and the fitted heads. The accuracies are ``majority`` (the most common
        training label, a baseline for all others), ``knn_cosine``, ``knn_euclidean``, ``linear``
        and ``mlp``. The accuracy of a multi-label task is the share of correct labels. Tasks with
        one label per image also have ``gmm_accuracy``, ``gmm_nmi`` and ``gmm_ari``, unless there
        are fewer training images than classes.

    Raises:
        InvalidInput: If shapes, labels and classes do not match, or k is below 1.
    """
    if train_y.shape[1:] != test_y.shape[1:] or len(test_y) != len(test_z):
        raise InvalidInput(
            f"labels are {list(train_y.shape)} for train and {list(test_y.shape)} for "
            f"{len(test_z)} test embeddings"
        )
    score = _scorer(test_y, task, classes)
    k = min(k, len(train_z))
    found: list[Measure] = []
    heads: list[Head] = []
    if {"knn", "linear", "mlp"} & set(measures):
        found.append(score("majority", _commonest(train_y), {"predicts": "commonest train label"}))
    if "knn" in measures:
        for distance in get_args(Distance):
            predicted = knn_predict(
                train_z, train_y, test_z, k=k, distance=distance, device=device, progress=progress
            )
            protocol: Protocol = {"k": k, "distance": distance, "votes": "equal"}
            found.append(score(f"knn_{distance}", predicted, protocol))
    if "linear" in measures:
        head = linear_probe(train_z, train_y, task=task, classes=classes, device=device)
        protocol = {"inputs": "standardised", "l2": L2, "optimiser": "L-BFGS"}
        found.append(score("linear", head.predict(test_z), protocol))
        heads.append(head)
    if "mlp" in measures:
        head = mlp_probe(
            train_z,
            train_y,
            task=task,
            classes=classes,
            seed=seed,
            device=device,
            progress=progress,
        )
        protocol = {
            "inputs": "standardised",
            "hidden units": train_z.shape[1],
            "optimiser": "Adam",
            "learning rate": MLP_LEARNING_RATE,
            "schedule": "cosine",
            "batch": min(MLP_BATCH, len(train_z)),
            "steps": MLP_STEPS,
            "seed": seed,
        }
        found.append(score("mlp", head.predict(test_z), protocol))
        heads.append(head)
    if "clustering" in measures and train_y.ndim == 1:
        count = len(classes) or int(train_y.max()) + 1
        if len(train_z) >= count:  # a mixture cannot have more components than images
            with tqdm(total=1, desc="clustering", disable=None if progress else True) as bar:
                found += measure_clusters(
                    np.asarray(train_z),
                    np.asarray(train_y),
                    np.asarray(test_z),
                    np.asarray(test_y),
                    classes=count,
                    task=task,
                    seed=seed,
                )
                bar.update()
    return tuple(found), tuple(heads)


def _scorer(
    test_y: Labels, task: str, classes: Sequence[str]
) -> Callable[[str, NDArray[np.generic], Protocol], Measure]:
    """Return ``score(name, predicted, protocol)``, which measures an accuracy."""

    def score(name: str, predicted: NDArray[np.generic], protocol: Protocol) -> Measure:
        right = (predicted == test_y).astype(np.float64)  # [N] or [N, A]
        by_class = None
        if right.ndim == 2:
            names = classes or [str(i) for i in range(right.shape[1])]
            by_class = dict(zip(names, right.mean(axis=0).tolist(), strict=True))
            right = right.mean(axis=1)
        return Measure.of_scores(
            name, right, unit="accuracy", protocol=protocol, task=task, by_class=by_class
        )

    return score


def _commonest(labels: Labels) -> NDArray[np.generic]:
    """Return the most common class, or for a multi-label task the most common answer per label."""
    if labels.ndim == 1:
        values, counts = np.unique(labels, return_counts=True)
        return values[[counts.argmax()]]
    return np.asarray(2 * labels.sum(axis=0) > len(labels))
