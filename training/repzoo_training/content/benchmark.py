"""Measure the content posterior of a package, on queries degraded in every known way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from repzoo.runtime.encoder import Encoder
from scipy.stats import spearmanr
from tqdm import tqdm

from repzoo_training.content.fitting import as_target
from repzoo_training.content.measures import Located, Measured, measure, recovered
from repzoo_training.content.report import ContentReport, ContentRow, Group, Share
from repzoo_training.data import ImageDataset
from repzoo_training.degradations import FIT, SEVERITIES, TEST, VALIDATION, Degradation, degrade
from repzoo_training.evaluation.tasks import Task, tasks_of
from repzoo_training.uncertainty.examples import make_views, mild
from repzoo_training.uncertainty.metrics import auroc
from repzoo_training.views.views import ViewSpec

__all__ = ["choose", "has_task", "locate", "measure_content", "single_task"]

#: Maximum numbers of documents and queries.
MOST_DOCUMENTS, MOST_QUERIES = 20_000, 2_000
LISTS: Mapping[Group, Mapping[str, Degradation]] = {
    "fit": FIT,
    "validation": VALIDATION,
    "test": TEST,
}


def locate(encoder: Encoder, images: NDArray[np.uint8]) -> Located:
    """Run the encoder and its content posterior on uint8 images ``[N, H, W, C]``."""
    return _located(encoder, encoder.outputs(images, content=True))


def _located(encoder: Encoder, outputs: Mapping[str, NDArray[np.float32]]) -> Located:
    spec = encoder.config.content
    assert spec is not None
    return Located(
        as_target(outputs["embedding"], spec.unit_length),
        outputs["content_mean"],
        outputs["content_variance"],
    )


def measure_content(
    encoder: Encoder,
    train: ImageDataset,
    test: ImageDataset,
    views: ViewSpec,
    *,
    former: Encoder | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ContentReport:
    """Measure retrieval of degraded queries, coverage and errors on all three lists.

    Documents are undegraded training images, queries test images. The target of a query is the
    embedding of a fresh mild view of the undegraded image. For CelebA, the label is the hair
    colour.

    Args:
        encoder: A package with a content posterior.
        train: Labelled images, of which up to 20,000 are documents.
        test: Labelled images, of which up to 2,000 are queries.
        views: The recipe's views, see `repzoo_training.uncertainty.examples.mild`.
        former: The same encoder with an uncertainty to compare with.
        seed: Decides the choice of images, the degradations and the views.
        progress: Show a bar, on a terminal only.

    Raises:
        InvalidInput: If the labels pose no task with one answer per image.
    """
    task = single_task(train, test)
    random = np.random.default_rng([seed, 7])
    documents, gallery_labels = choose(task.train, task.train_rows, MOST_DOCUMENTS, random)
    queries, labels = choose(task.test, task.test_rows, MOST_QUERIES, random)
    spec = encoder.config.content
    assert spec is not None  # the caller has checked
    unit = spec.unit_length
    gallery = locate(encoder, train.images[documents])
    spread = gallery.embedding.std(0).clip(1e-6)
    fresh = make_views(test, queries, mild(views), seed, 9000)
    target = as_target(encoder.embed(fresh), unit)

    judges = {"uncertainty": encoder}
    if former is not None:
        judges["former"] = former
    judges = {name: each for name, each in judges.items() if each.config.uncertainty is not None}
    told: dict[str, list[NDArray[np.float32]]] = {name: [] for name in judges}
    rows: list[ContentRow] = []
    measured: dict[Group, list[Measured]] = {"clean": [], "fit": [], "validation": [], "test": []}
    asked: list[tuple[Group, str, int]] = [("clean", "clean", 0)]
    asked += [
        (group, kind, severity)
        for group, kinds in LISTS.items()
        for kind in kinds
        for severity in range(1, SEVERITIES + 1)
    ]
    for group, kind, severity in tqdm(
        asked, desc="degraded queries", disable=None if progress else True
    ):
        images = test.images[queries]
        if severity:
            images = degrade(images, kind, severity, seed)
        outputs = encoder.outputs(images, content=True)  # once, for all that is measured
        for name, each in judges.items():
            told[name].append(each.uncertainty_of(outputs, images))
        found = measure(
            _located(encoder, outputs),
            target,
            labels,
            gallery,
            gallery_labels,
            spread,
            spec.regions,
        )
        measured[group].append(found)
        rows.append(_row(group, kind, severity, found))
    degraded = [each for group, found in measured.items() if group != "clean" for each in found]
    clean = measured["clean"][0].precision["euclidean"]
    missed = np.concatenate([each.wrong_plain for each in degraded])
    found_out = {n: auroc(np.concatenate(values[1:]), missed) for n, values in told.items()}
    return ContentReport(
        model=encoder.config.name,
        dataset=test.name,
        n_gallery=len(documents),
        n_queries=len(queries),
        labels=f"the {task.name} is the same",
        rows=tuple(rows),
        recovered={
            group: Share(value=value, low=low, high=high)
            for group, found in measured.items()
            if group != "clean"
            for value, low, high in [recovered(clean, found)]
        },
        error_correlation=float(
            spearmanr([r.predicted_error for r in rows], [r.real_error for r in rows]).statistic
        ),
        wrong_auroc=auroc(
            np.concatenate([each.trace for each in degraded]),
            np.concatenate([each.wrong for each in degraded]),
        ),
        uncertainty_auroc=found_out.get("uncertainty"),
        former_auroc=found_out.get("former"),
    )


def has_task(train: ImageDataset, test: ImageDataset) -> bool:
    """Whether the labels pose a task with one answer per image."""
    return any(task.train.ndim == 1 for task in tasks_of(train, test))


def _row(group: Group, kind: str, severity: int, found: Measured) -> ContentRow:
    return ContentRow(
        group=group,
        kind=kind,
        severity=severity,
        precision={name: 100 * float(each.mean()) for name, each in found.precision.items()},
        coverage=found.coverage,
        joint=found.joint,
        nll=found.nll,
        sharpness=found.sharpness,
        predicted_error=found.predicted_error,
        real_error=found.real_error,
    )


def single_task(train: ImageDataset, test: ImageDataset) -> Task:
    """Return the last task with one answer per image: the class, or CelebA's hair colour.

    Raises:
        InvalidInput: If the labels pose no such task.
    """
    single = [task for task in tasks_of(train, test) if task.train.ndim == 1]
    if not single:
        raise InvalidInput(
            f"{test.name} has no labels with one answer per image; degraded retrieval cannot be "
            "measured without"
        )
    return single[-1]


def choose(
    answers: NDArray[Any],
    known: NDArray[np.bool_],
    most: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and answers of a random choice of images that have an answer."""
    rows = np.flatnonzero(known)
    chosen = np.sort(random.permutation(len(rows))[:most])
    return rows[chosen], answers[chosen]
