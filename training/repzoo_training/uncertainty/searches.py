"""Measure an uncertainty without labels on other queries, other galleries and other tasks.

A package's number describes one kind of search: an image among views. This module measures how well
it fits other searches in galleries of the same size: views among views (the head was fitted to
these as well), corrupted images among views, and both among the unchanged images, as a search index
holds them. Unchanged images among themselves are left out: an image is at distance 0 from itself.

**At best.** The view of its own image that a query has to find is drawn at random, and no score of
the image can know the draw. The best possible score is estimated by the share of ``DRAWS`` further
views of the query's image that the query would miss. That share is not available in practice. It
knows the answers for every draw except the one in the gallery.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from repzoo.report import lay_out
from repzoo.runtime.encoder import Encoder

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation.tasks import tasks_of
from repzoo_training.uncertainty.examples import make_views, missed, neighbours
from repzoo_training.uncertainty.metrics import Interval, auroc, bootstrap, calibration_error, gain
from repzoo_training.uncertainty.questions import FURTHER, OF_QUERIES, Question
from repzoo_training.uncertainty.report import ABSTAIN, Record, UncertaintyReport, short
from repzoo_training.uncertainty.scoring import Scored, Scorer
from repzoo_training.views.views import ViewSpec

__all__ = ["DRAWS", "OtherAnswer", "Search", "ViewsReport", "chance", "other_answers", "search"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Further views of an image that estimate how likely it is to be found.
DRAWS = 20


class Search(Record):
    """The result for one kind of query in one kind of gallery, with intervals over test images.

    Attributes:
        queries: images, views, or corrupted (all kinds and levels together).
        gallery: views or images, one per image.
        wrong: share of queries whose nearest neighbour shows another image.
        uncertainty: mean uncertainty.
        calibration_error: calibration error of the uncertainty.
        r_auroc: R-AUROC of the uncertainty; None if all neighbours are right or all are wrong.
        at_best: R-AUROC of the share of further views that are missed; None in a gallery of images.
        gain: gain of the uncertainty in precision@1.
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
    """Whether the uncertainty detects neighbours that differ in another task.

    Attributes:
        task: name of the task, such as gender.
        wrong: share of the test images whose nearest training image has another answer.
        r_auroc: R-AUROC of the uncertainty, which was not fitted to this task.
    """

    task: str
    wrong: float
    r_auroc: Interval | None


class ViewsReport(UncertaintyReport):
    """All numbers of one encoder whose uncertainty is about another image.

    Attributes:
        chance: calibration error that exact probabilities would show on the same number of images.
        searches: results per kind of search, starting with the one that the uncertainty describes.
        others: results per task, if the images have attributes or labels.
    """

    chance: float | None = None
    searches: tuple[Search, ...] = ()
    others: tuple[OtherAnswer, ...] = ()

    def _headline(self) -> str:
        return (
            f"{self.model} on {self.dataset}: for {100 * self.wrong:.2f} % of {self.n_test:,} test "
            f"images, the nearest of one view each of {self.n_train:,} images (including the test "
            "image) shows another image"
        )

    def _notes(self, precision_at: int = 1) -> list[str]:
        notes = super()._notes(precision_at)
        notes += [
            "ratio: distance to the nearest over distance to the second nearest neighbour.",
            "Share of wrong neighbours at corruption levels 0 to 5: "
            + "; ".join(
                f"{kind} {' '.join(f'{w:.2f}' for w in curve.wrong)}"
                for kind, curve in self.corruptions.items()
            )
            + ".",
        ]
        if self.chance is not None:
            notes += [
                f"Exact probabilities would show a calibration error of {self.chance:.4f} on "
                f"{self.n_test:,} images."
            ]
        if self.searches:
            notes += ["", *self._search_table()]
        for other in self.others:
            auroc = "" if other.r_auroc is None else f", R-AUROC {short(other.r_auroc)}"
            notes += [
                "Not what the uncertainty predicts: the nearest training image has another "
                f"{other.task} ({100 * other.wrong:.1f} % of the images{auroc})."
            ]
        return notes

    def _search_table(self) -> list[str]:
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
            lay_out([*zip(*rows, strict=True)]),
            "",
            f"at best: R-AUROC of a score that knows how many of {DRAWS} further views of its "
            "image each query would find. The rest depends on which view the gallery holds.",
        ]


def search(
    encoder: Encoder,
    scorer: Scorer,
    question: Question,
    clean: Scored,
    corrupted: tuple[NDArray[np.int64], list[Scored]],
    train: NDArray[np.float32],
    views: ViewSpec,
    test: ImageDataset,
    seed: int,
) -> tuple[Search, ...]:
    """Measure every kind of search.

    Args:
        encoder: an encoder with an uncertainty.
        scorer: scores images against the question's gallery.
        question: a question about views.
        clean: scores of its queries.
        corrupted: rows of the corrupted queries, and their scores under each corruption.
        train: embeddings of the training images, float32 ``[M, D]``.
        views: the recipe's views.
        test: the test images.
        seed: decides views and resamples.
    """
    own, metric = question.own[:, 0], encoder.config.metric
    assert question.kept is not None
    further = np.stack(
        [encoder.embed(make_views(test, own, views, seed, FURTHER + n)) for n in range(DRAWS)], 1
    )  # [N, draws, D]
    of_views = scorer.score(make_views(test, own, views, seed, OF_QUERIES))
    images = np.concatenate([clean.embedding, train[question.kept]])  # [M, D]

    def best(asked: Scored, rows: NDArray[np.int64]) -> Floats:
        farther, _ = missed(asked.embedding, scorer.gallery, rows, further[rows], metric)
        share: Floats = farther.mean(1)
        return share

    made = []
    sample, worse = corrupted
    kinds = (("images", own, [clean]), ("views", own, [of_views]), ("corrupted", sample, worse))
    for queries, rows, asked in kinds:
        score = np.column_stack([each.scores["uncertainty"] for each in asked])  # [n, levels]
        wrong = np.column_stack([each.neighbours[:, 0] != rows for each in asked])
        ideal = np.column_stack([best(each, rows) for each in asked])
        made.append(_result(queries, "views", score, wrong, ideal, seed))
        if queries != "images":
            nearest = [neighbours(each.embedding, images, metric) for each in asked]
            wrong = np.column_stack([found != rows for found in nearest])
            made.append(_result(queries, "images", score, wrong, None, seed))
    return tuple(made)


def _result(
    queries: str, gallery: str, score: Floats, wrong: Flags, best: Floats | None, seed: int
) -> Search:
    both = 0 < wrong.mean() < 1  # right and wrong neighbours occur
    return Search(
        queries=queries,
        gallery=gallery,
        wrong=float(wrong.mean()),
        uncertainty=float(score.mean()),
        calibration_error=calibration_error(score.ravel(), wrong.ravel()),
        r_auroc=bootstrap(_auroc, score, wrong, seed=seed) if both else None,
        at_best=bootstrap(_auroc, best, wrong, seed=seed) if both and best is not None else None,
        gain=bootstrap(_gain, score, ~wrong, seed=seed) if both else None,
    )


def other_answers(
    encoder: Encoder,
    clean: Scored,
    train: ImageDataset,
    test: ImageDataset,
    embeddings: NDArray[np.float32],
    seed: int,
) -> tuple[OtherAnswer, ...]:
    """Measure every task with one answer per image, given the embeddings of training images."""
    made = []
    for task in tasks_of(train, test):
        if task.train.ndim > 1:
            continue
        known = task.test_rows[: len(clean.embedding)]
        gallery = embeddings[task.train_rows]
        found = neighbours(clean.embedding[known], gallery, encoder.config.metric)
        wrong = task.train[found] != task.test[: len(found)]
        both = 0 < wrong.mean() < 1  # right and wrong neighbours occur
        score = clean.scores["uncertainty"][known]
        made.append(
            OtherAnswer(
                task=task.name,
                wrong=float(wrong.mean()),
                r_auroc=bootstrap(auroc, score, wrong, seed=seed) if both else None,
            )
        )
    return tuple(made)


def chance(probability: Floats, seed: int) -> float:
    """Return the mean calibration error of answers drawn according to the probabilities."""
    random = np.random.default_rng([seed, 4])
    drawn = (random.random(len(probability)) < probability for _ in range(100))
    return float(np.mean([calibration_error(probability, wrong) for wrong in drawn]))


def _auroc(score: Floats, wrong: Flags) -> float:
    return auroc(score.ravel(), wrong.ravel())


def _gain(score: Floats, right: Flags) -> float:
    return gain(score.ravel(), right.ravel().astype(np.float64), ABSTAIN)
