"""Pool the reports of runs that differ only in their seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from repzoo.errors import InvalidInput

from repzoo_training.evaluation.report import EvaluationReport, Measure

__all__ = ["pool_seeds"]


def pool_seeds(reports: Sequence[EvaluationReport]) -> EvaluationReport:
    """Return the mean of every measure over seeds, with the standard error of that mean.

    The standard error is the standard deviation over S runs (with S − 1 in its denominator)
    divided by √S. It describes the effect of other seeds on the same test set. A single report is
    returned unchanged.

    Raises:
        InvalidInput: If there are no reports, if two have the same seed, or if they differ in
            method, recipe, budget, dimension, images or protocol.
    """
    if not reports:
        raise InvalidInput("there are no reports to pool")
    first = reports[0]
    if len(reports) == 1:
        return first
    for name in (
        *("method", "recipe", "views", "dim", "suite", "train_sha256", "test_sha256", "n_test"),
    ):
        values = {getattr(report, name) for report in reports}
        if len(values) > 1:
            found = ", ".join(sorted(map(str, values)))
            raise InvalidInput(f"reports to pool differ in {name}: {found}")
    seeds = [report.seed for report in reports]
    if None in seeds or len(set(seeds)) < len(seeds):
        raise InvalidInput(f"reports to pool need different seeds; these have {seeds}")
    keys = [[(m.name, m.task) for m in report.measures] for report in reports]
    shared = [key for key in keys[0] if all(key in others for others in keys)]
    return first.model_copy(
        update={
            "measures": tuple(_pool([_find(report, *key) for report in reports]) for key in shared),
            "groups": tuple(g for g in first.groups if all(g in r.groups for r in reports)),
            "seed": None,
            "seeds": tuple(seed for seed in seeds if seed is not None),
            "checkpoint_sha256": None,
        }
    )


def _find(report: EvaluationReport, name: str, task: str | None) -> Measure:
    return next(m for m in report.measures if (m.name, m.task) == (name, task))


def _pool(measures: Sequence[Measure]) -> Measure:
    first = measures[0]
    if any(m.protocol != first.protocol for m in measures):
        raise InvalidInput(f"reports to pool measure {first.name} by different protocols")
    values = np.array([m.value for m in measures])
    by_class = None
    if first.by_class is not None:
        by_class = {
            name: float(np.mean([(m.by_class or {})[name] for m in measures]))
            for name in first.by_class
        }
    return first.model_copy(
        update={
            "value": float(values.mean()),
            "standard_error": float(values.std(ddof=1) / math.sqrt(len(values))),
            "by_class": by_class,
            "protocol": {**first.protocol, "standard error": f"over {len(values)} seeds"},
        }
    )
