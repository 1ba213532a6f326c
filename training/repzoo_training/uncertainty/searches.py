"""More of what is asked without labels: other queries, other galleries, other answers.

A package's number is of one search, an image among views. What it says of others is measured here,
in galleries of the same size: of views of the images (which the head was fitted to as well), of
corrupted images, and of both among the images themselves, as a search index holds them. An image
among the images is not asked: it is at distance 0 from itself.

**At best.** Which view of its image a query is to find among the others is drawn, and no score of
the image knows the draw. How far one could get is measured: by the share of ``DRAWS`` further
views of its own image that are farther from the query than its nearest view of another. That share
is no score that could be had; it is told the answers, of all draws but the one that is asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.tasks import tasks_of
from repzoo_training.uncertainty.asking import Asked, Scorer
from repzoo_training.uncertainty.examples import make_views, missed, neighbours
from repzoo_training.uncertainty.questions import FURTHER, OF_QUERIES, Question
from repzoo_training.uncertainty.report import ABSTAIN, Record, UncertaintyReport, aligned, short
from repzoo_training.uncertainty.scores import Interval, auroc, bootstrap, calibration_error, gain
from repzoo_training.views.views import ViewSpec

__all__ = ["DRAWS", "OtherAnswer", "Search", "ViewsReport", "chance", "other_answers", "search"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Further views of an image, that say how likely it is to be found.
DRAWS = 20


class Search(Record):
    """Queries of one kind in a gallery of one kind; intervals are over the test images.

    Attributes:
        queries: images, views, or corrupted (of all kinds and levels together).
        gallery: views or images, one of each image.
        wrong: share of queries whose nearest neighbour shows another image.
        uncertainty: mean.
        calibration_error: of the uncertainty.
        r_auroc: of the uncertainty; None if all neighbours are right, or none is.
        at_best: the same of the share of further views that are not found; None among images.
        gain: in precision@1, of the uncertainty.
    """

    queries: str
    gallery: str
    wrong: float
    uncertainty: float
    calibration_error: float
    r_auroc: Interval | None
    at_best: Interval | None
    gain: Interval | None


class OtherAnswer(Record):
    """Whether the same score tells that the nearest training image differs in something else.

    Attributes:
        task: such as gender.
        wrong: share of the test images whose nearest training image has another answer.
        r_auroc: of the uncertainty, which was not fitted to this.
    """

    task: str
    wrong: float
    r_auroc: Interval | None


class ViewsReport(UncertaintyReport):
    """All numbers of one encoder whose uncertainty is of another image.

    Attributes:
        chance: the calibration error that as many images would show if each uncertainty were exact.
        searches: of an uncertainty, beginning with the one that it is the probability of.
        others: by task, where the images have attributes or labels.
    """

    chance: float | None = None
    searches: tuple[Search, ...] = ()
    others: tuple[OtherAnswer, ...] = ()

    def _headline(self) -> str:
        return (
            f"{self.model} on {self.dataset}: of {100 * self.wrong:.2f} % of {self.n_test:,} test "
            f"images the nearest among views of {self.n_train:,} images, one of them its own, "
            "shows another image"
        )

    def _notes(self, precision_at: int = 1) -> list[str]:
        notes = super()._notes(precision_at)
        notes += [
            "ratio: of the distances to the nearest and to the second nearest.  Share of wrong as "
            "images get worse: "
            + "; ".join(
                f"{kind} {' '.join(f'{w:.2f}' for w in curve.wrong)}"
                for kind, curve in self.corruptions.items()
            )
            + "."
        ]
        if self.chance is not None:
            notes += [
                f"Of exact probabilities the calibration error of {self.n_test:,} images is "
                f"{self.chance:.4f}."
            ]
        if self.searches:
            notes += ["", *self._searched()]
        for other in self.others:
            told = "" if other.r_auroc is None else f": R-AUROC {short(other.r_auroc)}"
            notes += [
                f"Not what it is a probability of: the nearest training image is of another "
                f"{other.task} ({100 * other.wrong:.1f} %){told}."
            ]
        return notes

    def _searched(self) -> list[str]:
        head = ("queries", "among", "wrong", "mean", "calibration error")
        rows = [(*head, "R-AUROC", "at best", "gain")]
        for each in self.searches:
            rows.append(
                (
                    each.queries,
                    each.gallery,
                    f"{100 * each.wrong:.1f} %",
                    f"{each.uncertainty:.3f}",
                    f"{each.calibration_error:.3f}",
                    "" if each.r_auroc is None else short(each.r_auroc),
                    "" if each.at_best is None else short(each.at_best),
                    "" if each.gain is None else short(each.gain, 2),
                )
            )
        return [
            *aligned(rows),
            "",
            f"at best: what a score would reach that is told of {DRAWS} further views of each "
            "image how many of them the query finds; the rest is which view the gallery has.",
        ]


def search(
    encoder: Encoder,
    scorer: Scorer,
    question: Question,
    clean: Asked,
    corrupted: tuple[NDArray[np.int64], list[Asked]],
    train: NDArray[np.float32],
    views: ViewSpec,
    test: ImageDataset,
    seed: int,
) -> tuple[Search, ...]:
    """All searches.

    Args:
        encoder: with an uncertainty.
        scorer: of the question's gallery.
        question: of views.
        clean: the answers to its queries.
        corrupted: which queries were corrupted, and the answers to each corruption of them.
        train: embeddings of the training images.
        views: the recipe's own.
        test: the test images.
        seed: of views and resamples.
    """
    own, metric = question.own, encoder.config.metric
    assert question.kept is not None
    further = np.stack(
        [encoder.embed(make_views(test, own, views, seed, FURTHER + n)) for n in range(DRAWS)], 1
    )  # [N, draws, D]
    of_views = scorer.ask(make_views(test, own, views, seed, OF_QUERIES))
    images = np.concatenate([clean.embedding, train[question.kept]])  # [M, D]

    def best(asked: Asked, rows: NDArray[np.int64]) -> Floats:
        farther, _ = missed(asked.embedding, scorer.gallery, rows, further[rows], metric)
        share: Floats = farther.mean(1)
        return share

    made = []
    sample, worse = corrupted
    kinds = (("images", own, [clean]), ("views", own, [of_views]), ("corrupted", sample, worse))
    for queries, rows, asked in kinds:
        score = np.column_stack([each.scores["uncertainty"] for each in asked])  # [n, levels]
        wrong = np.column_stack([each.neighbours[:, 0] != rows for each in asked])
        told = np.column_stack([best(each, rows) for each in asked])
        made.append(_searched(queries, "views", score, wrong, told, seed))
        if queries != "images":
            nearest = [neighbours(each.embedding, images, metric) for each in asked]
            wrong = np.column_stack([found != rows for found in nearest])
            made.append(_searched(queries, "images", score, wrong, None, seed))
    return tuple(made)


def _searched(
    queries: str, gallery: str, score: Floats, wrong: Flags, best: Floats | None, seed: int
) -> Search:
    told = 0 < wrong.mean() < 1
    return Search(
        queries=queries,
        gallery=gallery,
        wrong=float(wrong.mean()),
        uncertainty=float(score.mean()),
        calibration_error=calibration_error(score.ravel(), wrong.ravel()),
        r_auroc=bootstrap(_auroc, score, wrong, seed=seed) if told else None,
        at_best=bootstrap(_auroc, best, wrong, seed=seed) if told and best is not None else None,
        gain=bootstrap(_gain, score, ~wrong, seed=seed) if told else None,
    )


def other_answers(
    encoder: Encoder,
    clean: Asked,
    train: ImageDataset,
    test: ImageDataset,
    embeddings: NDArray[np.float32],
    seed: int,
) -> tuple[OtherAnswer, ...]:
    """Of every task with one answer an image; ``embeddings`` are of the training images."""
    made = []
    for task in tasks_of(train, test):
        if task.train.ndim > 1:
            continue
        known = task.test_rows[: len(clean.embedding)]
        gallery = embeddings[task.train_rows]
        found = neighbours(clean.embedding[known], gallery, encoder.config.metric)
        wrong = task.train[found] != task.test[: len(found)]
        told = 0 < wrong.mean() < 1
        score = clean.scores["uncertainty"][known]
        made.append(
            OtherAnswer(
                task=task.name,
                wrong=float(wrong.mean()),
                r_auroc=bootstrap(auroc, score, wrong, seed=seed) if told else None,
            )
        )
    return tuple(made)


def chance(probability: Floats, seed: int) -> float:
    """Mean calibration error of answers that are drawn as the probabilities say."""
    random = np.random.default_rng([seed, 4])
    drawn = (random.random(len(probability)) < probability for _ in range(100))
    return float(np.mean([calibration_error(probability, wrong) for wrong in drawn]))


def _auroc(score: Floats, wrong: Flags) -> float:
    return auroc(score.ravel(), wrong.ravel())


def _gain(score: Floats, right: Flags) -> float:
    return gain(score.ravel(), right.ravel().astype(np.float64), ABSTAIN)
