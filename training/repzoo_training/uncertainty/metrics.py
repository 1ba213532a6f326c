"""Metrics of an uncertainty, computed from scores and from which neighbours were wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Interval",
    "aurc",
    "auroc",
    "auroc_interval",
    "bootstrap",
    "calibration_error",
    "gain",
    "risk_coverage",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Resamples of a bootstrap interval.
RESAMPLES = 400
#: Bins of equal size for the calibration error.
BINS = 15


class Interval(NamedTuple):
    """A number with its 95 % bootstrap interval over the images."""

    value: float
    low: float
    high: float


def auroc(score: Floats, positive: Flags) -> float:
    """Return the probability that a positive scores above a negative, with ties counting half.

    This is the Mann-Whitney statistic. It is NaN if there are no positives or no negatives.
    """
    order, starts = _by_score(score)
    ranked = positive[order].astype(np.int64)
    return _mann_whitney(ranked, 1 - ranked, starts)


def auroc_interval(score: Floats, positive: Flags, seed: int = 0) -> Interval:
    """Return `auroc` with its `bootstrap` interval, sorting only once for all resamples."""
    order, starts = _by_score(score)
    ranked = positive[order].astype(np.int64)
    random = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        rows = random.integers(0, len(score), len(score))
        times = np.bincount(rows, minlength=len(score))[order]
        values.append(_mann_whitney(times * ranked, times * (1 - ranked), starts))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(auroc(score, positive), float(low), float(high))


def _by_score(score: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order of the scores, and where each distinct score begins in it."""
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    return order, starts


def _mann_whitney(
    positive: NDArray[np.int64], negative: NDArray[np.int64], starts: NDArray[np.int64]
) -> float:
    """Compute the statistic from how often each row, in order of score, is positive or negative."""
    ours, theirs = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    below = np.cumsum(theirs) - theirs  # negatives with a lower score
    pairs = int(ours.sum()) * int(theirs.sum())
    return float(ours @ (below + theirs / 2) / pairs) if pairs else float("nan")


def risk_coverage(score: Floats, wrong: Flags) -> tuple[Floats, Floats]:
    """Return coverage and risk, ``[N]`` each: errors among the images with the lowest scores."""
    order = np.argsort(score, kind="stable")
    answered = np.arange(1, len(score) + 1)
    return answered / len(score), np.cumsum(wrong[order]) / answered


def aurc(score: Floats, wrong: Flags) -> float:
    """Return the area under the risk-coverage curve, the mean risk over all coverages."""
    return float(risk_coverage(score, wrong)[1].mean())


def calibration_error(probability: Floats, wrong: Flags) -> float:
    """Return the mean |probability − share of errors| over bins of equal size."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    gaps = [abs(probability[part].mean() - wrong[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(order))


def gain(score: Floats, quality: Floats, abstain: float = 0.2) -> float:
    """Return the gain from abstaining by ``score`` as a share of an oracle's gain.

    The gain is the increase of the mean ``quality`` when the share ``abstain`` of the queries with
    the highest scores is not answered. The oracle abstains on the queries with the lowest quality.
    """
    left = len(score) - round(abstain * len(score))
    ours = quality[np.argsort(score, kind="stable")[:left]].mean()
    best = np.sort(quality)[::-1][:left].mean()
    everything = quality.mean()
    return float((ours - everything) / (best - everything)) if best > everything else float("nan")


def bootstrap(
    statistic: Callable[..., float], *arrays: NDArray[np.generic], seed: int = 0
) -> Interval:
    """Return a statistic of the arrays' rows, with its percentile interval over resampled rows."""
    random = np.random.default_rng(seed)
    count = len(arrays[0])
    values = []
    for _ in range(RESAMPLES):
        rows = random.integers(0, count, count)
        values.append(statistic(*(array[rows] for array in arrays)))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(statistic(*arrays), float(low), float(high))
