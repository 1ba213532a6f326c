"""How good an uncertainty is: numbers of a score and of what turned out wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "aurc", "auroc", "bootstrap", "calibration_error", "gain", "risk_coverage"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Resamples of a bootstrap interval.
RESAMPLES = 400
#: Bins of equal size, of the calibration error.
BINS = 15


class Interval(NamedTuple):
    """A number with its 95 % bootstrap interval over the images."""

    value: float
    low: float
    high: float


def auroc(score: Floats, positive: Flags) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN without both.

    The Mann-Whitney statistic, from ranks.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    # Ties share the mean of their ranks.
    _, first, count = np.unique(ranked, return_index=True, return_counts=True)
    ranks = np.empty(len(score))
    ranks[order] = np.repeat(first + (count + 1) / 2, count)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / positives / negatives)


def risk_coverage(score: Floats, wrong: Flags) -> tuple[Floats, Floats]:
    """Coverage and risk, ``[N]`` each: errors among the share of images with the lowest scores."""
    order = np.argsort(score, kind="stable")
    answered = np.arange(1, len(score) + 1)
    return answered / len(score), np.cumsum(wrong[order]) / answered


def aurc(score: Floats, wrong: Flags) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages."""
    return float(risk_coverage(score, wrong)[1].mean())


def calibration_error(probability: Floats, wrong: Flags) -> float:
    """Mean |probability − share of errors| over bins of equally many images."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    gaps = [abs(probability[part].mean() - wrong[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(order))


def gain(score: Floats, quality: Floats, abstain: float = 0.2) -> float:
    """How much of an oracle's gain abstaining by ``score`` has, 1 being all of it.

    The gain is in the mean ``quality`` of the queries that are left when the share ``abstain`` with
    the highest scores is not answered; the oracle leaves those with the lowest quality unanswered.
    """
    left = len(score) - round(abstain * len(score))
    ours = quality[np.argsort(score, kind="stable")[:left]].mean()
    best = np.sort(quality)[::-1][:left].mean()
    everything = quality.mean()
    return float((ours - everything) / (best - everything)) if best > everything else float("nan")


def bootstrap(
    statistic: Callable[..., float], *arrays: NDArray[np.generic], seed: int = 0
) -> Interval:
    """``statistic`` of the arrays' rows, with its percentile interval over resampled rows."""
    random = np.random.default_rng(seed)
    count = len(arrays[0])
    values = []
    for _ in range(RESAMPLES):
        rows = random.integers(0, count, count)
        values.append(statistic(*(array[rows] for array in arrays)))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(statistic(*arrays), float(low), float(high))
