"""From runs to the rows of a table: seeds of one recipe and budget are pooled."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from repzoo_training.comparison.runs import ComparedRun
from repzoo_training.errors import RunError
from repzoo_training.evaluation import Measure
from repzoo_training.evaluation.report import Unit
from repzoo_training.objectives import METHODS, find_method
from repzoo_training.results.published import Published, published

__all__ = ["Board", "Estimate", "Row", "boards", "measured_classes"]

#: Seeds whose views differ by more than this factor are not of one budget. A budget given as time
#: is turned into views by a measurement, which other work on the machine disturbs.
BUDGET_FACTOR = 1.5

#: The tasks that stand for the content of an image, the first that was measured: on CelebA the
#: paper's.
CONTENT_TASKS = ("class", "gender", "attributes")


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: over several seeds their mean.
        error: standard error: of several seeds that of their mean (their standard deviation by
            √seeds); of one seed, that from the size of the test set.
        seeds: how many.
        unit: of both.
    """

    value: float
    error: float
    seeds: int
    unit: Unit

    @property
    def accuracy(self) -> bool:
        """Whether it is a share, printed in per cent."""
        return self.unit == "accuracy"


@dataclass(frozen=True)
class Row:
    """One method at one budget, on one data set.

    Attributes:
        label: the method's title; with the recipe's name, and views, where that is not enough.
        runs: one for each seed.
        estimates: by the name of the measure, ``TASK NAME`` but for those of the content.
        published: what others have published.
    """

    label: str
    runs: tuple[ComparedRun, ...]
    estimates: dict[str, Estimate]
    published: tuple[Published, ...]

    @property
    def first(self) -> ComparedRun:
        """Of the lowest seed: whose pictures are drawn."""
        return self.runs[0]

    @property
    def method(self) -> str:
        return self.first.recipe.method

    @property
    def collapsed(self) -> bool:
        return any(run.collapse.get("collapsed") for run in self.runs)

    def average(self, of: Callable[[ComparedRun], float]) -> float:
        return statistics.fmean(map(of, self.runs))


@dataclass(frozen=True)
class Board:
    """All rows on one data set, in the order of the registry of methods."""

    rows: tuple[Row, ...]

    @property
    def dataset(self) -> str:
        return self.rows[0].first.report.dataset

    @property
    def n_train(self) -> int:
        return self.rows[0].first.report.n_train

    @property
    def n_test(self) -> int:
        return self.rows[0].first.report.n_test

    @property
    def content(self) -> str | None:
        """What k-NN and probes predict; None if nothing was labelled."""
        return measured_classes(self.rows[0].first.report.measures)


def boards(runs: Iterable[ComparedRun]) -> list[Board]:
    """Group runs by the images that they were measured on, and pool seeds in each group.

    Raises:
        RunError: if two runs are the same recipe, budget and seed.
    """
    found: dict[tuple[str | None, str | None], list[ComparedRun]] = {}
    for run in runs:
        found.setdefault((run.report.train_sha256, run.report.test_sha256), []).append(run)
    return [Board(_rows(group)) for group in found.values()]


def measured_classes(measures: Sequence[Measure]) -> str | None:
    """The task that stands for the content; None if nothing was labelled."""
    tasks = {measure.task for measure in measures if measure.unit == "accuracy"}
    return next((task for task in CONTENT_TASKS if task in tasks), None)


def _rows(runs: Sequence[ComparedRun]) -> tuple[Row, ...]:
    order = list(METHODS)
    pools = sorted(
        _pools(runs),
        key=lambda pool: (order.index(pool[0].recipe.method), pool[0].recipe.name, pool[0].views),
    )
    return tuple(
        Row(
            label=label,
            runs=pool,
            estimates=_estimates(pool),
            published=published(
                pool[0].report.dataset, pool[0].recipe.method, pool[0].recipe.network.kind
            ),
        )
        for label, pool in zip(_labels(pools), pools, strict=True)
    )


def _pools(runs: Sequence[ComparedRun]) -> list[tuple[ComparedRun, ...]]:
    """Runs that differ in nothing but the seed, and in views as a measured budget makes them."""
    pools: list[list[ComparedRun]] = []
    by_recipe: dict[str, list[ComparedRun]] = {}
    for run in runs:
        plain = run.recipe.model_copy(update={"seed": 0, "views": 1, "summary": ""})
        by_recipe.setdefault(plain.model_dump_json(), []).append(run)
    for same in by_recipe.values():
        pool: list[ComparedRun] = []
        for run in sorted(same, key=lambda run: run.views):
            twin = next((other for other in pool if other.recipe.seed == run.recipe.seed), None)
            if twin is not None and twin.views == run.views:
                raise RunError(
                    f"{twin.path} and {run.path} are one recipe, budget and seed "
                    f"({run.recipe.seed}): leave one out"
                )
            if not pool or twin is not None or run.views > BUDGET_FACTOR * pool[0].views:
                pool = []
                pools.append(pool)
            pool.append(run)
    return [tuple(sorted(pool, key=lambda run: run.recipe.seed)) for pool in pools]


def _labels(pools: Sequence[tuple[ComparedRun, ...]]) -> list[str]:
    """A label of each pool, as short as tells it from the others."""
    first = [pool[0] for pool in pools]
    titles = [find_method(run.recipe.method).title for run in first]
    forms = [
        titles,
        [f"{title} ({run.recipe.name})" for title, run in zip(titles, first, strict=True)],
        [
            f"{title} ({run.recipe.name}, {run.views:,} views)"
            for title, run in zip(titles, first, strict=True)
        ],
        [f"{title} ({run.path})" for title, run in zip(titles, first, strict=True)],
    ]
    return [
        next(form[i] for form in forms if form.count(form[i]) == 1 or form is forms[-1])
        for i in range(len(pools))
    ]


def _estimates(pool: Sequence[ComparedRun]) -> dict[str, Estimate]:
    of_runs = [_values(run) for run in pool]
    names = dict.fromkeys(itertools.chain.from_iterable(of_runs))
    return {
        name: _estimate([values[name] for values in of_runs if name in values]) for name in names
    }


def _values(run: ComparedRun) -> dict[str, Estimate]:
    """Each measure of one run, by the name that a table gives it."""
    content = measured_classes(run.report.measures)
    values: dict[str, Estimate] = {}
    for measure in run.report.measures:
        of_content = measure.task in (None, content)
        name = measure.name if of_content else f"{measure.task} {measure.name}"
        estimate = Estimate(measure.value, measure.standard_error, 1, measure.unit)
        values.setdefault(name, estimate)
    return values


def _estimate(of_seeds: Sequence[Estimate]) -> Estimate:
    if len(of_seeds) == 1:
        return of_seeds[0]
    values = [each.value for each in of_seeds]
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), error, len(values), of_seeds[0].unit)
