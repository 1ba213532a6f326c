"""Turn runs into the rows of a table. Seeds of one recipe and budget are pooled."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from repzoo_training.comparison.runs import ComparedRun
from repzoo_training.errors import RunError
from repzoo_training.evaluation import Measure
from repzoo_training.evaluation.report import Unit
from repzoo_training.objectives import METHODS, find_method
from repzoo_training.recipes.keys import keys
from repzoo_training.results.published import Published, published

__all__ = ["Board", "Estimate", "Row", "boards", "measured_classes"]

#: Seeds whose views differ by more than this factor have different budgets. A budget given as time
#: is converted to views by a measurement, which other work on the machine disturbs.
BUDGET_FACTOR = 1.5

#: A SHA-256, of which a label shows the beginning.
_DIGEST = re.compile(r"(sha256:\w{12})\w+")

#: How many settings a label lists.
MOST_SETTINGS = 3

#: Tasks that represent the content of an image. The first that was measured counts, which on CelebA
#: is the paper's.
CONTENT_TASKS = ("class", "gender", "attributes")


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error.

    Attributes:
        value: the number, or the mean over several seeds.
        error: standard error. For several seeds it is that of their mean (their standard deviation
            divided by √seeds), for one seed it reflects the size of the test set.
        seeds: number of seeds.
        unit: unit of value and error.
    """

    value: float
    error: float
    seeds: int
    unit: Unit

    @property
    def accuracy(self) -> bool:
        """Whether the number is an accuracy, printed in per cent."""
        return self.unit == "accuracy"


@dataclass(frozen=True)
class Row:
    """One method at one budget, on one data set.

    Attributes:
        label: title of the method; if several rows have it, with what distinguishes this one.
        runs: one run per seed.
        estimates: estimates by name of the measure, or by ``TASK NAME`` for tasks other than the
            content.
        published: published numbers of the method.
    """

    label: str
    runs: tuple[ComparedRun, ...]
    estimates: dict[str, Estimate]
    published: tuple[Published, ...]

    @property
    def first(self) -> ComparedRun:
        """The run with the lowest seed, whose pictures are drawn."""
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
        """The task that k-NN and probes predict, or None without labels."""
        return measured_classes(self.rows[0].first.report.measures)


def boards(runs: Iterable[ComparedRun]) -> list[Board]:
    """Group runs by the images that they were measured on, and pool the seeds in each group.

    Raises:
        RunError: If two runs have the same recipe, budget and seed.
    """
    found: dict[tuple[str | None, str | None], list[ComparedRun]] = {}
    for run in runs:
        found.setdefault((run.report.train_sha256, run.report.test_sha256), []).append(run)
    return [Board(_rows(group)) for group in found.values()]


def measured_classes(measures: Sequence[Measure]) -> str | None:
    """Return the task that represents the content, or None without labels."""
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
    """Group runs that differ only in the seed, and slightly in views if the budget was a time."""
    pools: list[list[ComparedRun]] = []
    by_settings: dict[tuple[object, ...], list[ComparedRun]] = {}
    for run in runs:
        by_settings.setdefault(tuple(_settings(run).items()), []).append(run)
    for same in by_settings.values():
        pool: list[ComparedRun] = []
        for run in sorted(same, key=lambda run: run.views):
            twin = next((other for other in pool if other.recipe.seed == run.recipe.seed), None)
            if twin is not None and twin.views == run.views:
                raise RunError(
                    f"{twin.path} and {run.path} have the same recipe, budget and seed "
                    f"({run.recipe.seed}): leave one out"
                )
            if not pool or twin is not None or run.views > BUDGET_FACTOR * pool[0].views:
                pool = []
                pools.append(pool)
            pool.append(run)
    return [tuple(sorted(pool, key=lambda run: run.recipe.seed)) for pool in pools]


def _settings(run: ComparedRun) -> dict[str, str]:
    """Return all that distinguishes a run except its seed and views, each as text for a label."""
    recipe, record = run.recipe, run.record
    settings = {
        key.name: key.setting
        for key in keys(recipe, recipe.method)
        if key.name not in ("seed", "views", "summary", "notes", "paper")
    }
    start = _DIGEST.sub(r"\1", record.started_from or "")
    extended = ", ".join(f"{step * recipe.views_per_step:,}" for step in record.extended_at)
    return {
        **settings,
        "name": recipe.name,
        "from": f"from {start}" if start else "",
        "extended": f"extended at {extended} views" if extended else "",
        "data": f"trained on {record.dataset} {record.dataset_sha256[:7]}",
    }


def _labels(pools: Sequence[tuple[ComparedRun, ...]]) -> list[str]:
    """Return the shortest unique label of each pool."""
    first = [pool[0] for pool in pools]
    titles = [find_method(run.recipe.method).title for run in first]
    named = [f"{title} ({run.recipe.name}" for title, run in zip(titles, first, strict=True)]
    settings = [_settings(run) for run in first]
    detailed = [
        ", ".join([name, *_differences(settings[i], [settings[j] for j in _equal(named, i)])])
        for i, name in enumerate(named)
    ]
    forms = [
        titles,
        [f"{name})" for name in named],
        [f"{text})" for text in detailed],
        [f"{text}, {run.views:,} views)" for text, run in zip(detailed, first, strict=True)],
        [f"{title} ({run.path})" for title, run in zip(titles, first, strict=True)],
    ]
    return [
        next(form[i] for form in forms if form.count(form[i]) == 1 or form is forms[-1])
        for i in range(len(pools))
    ]


def _equal(values: Sequence[str], i: int) -> list[int]:
    return [j for j, value in enumerate(values) if value == values[i]]


def _differences(mine: dict[str, str], others: Sequence[dict[str, str]]) -> list[str]:
    """Return the first settings that are not the same everywhere."""
    differ = [text for name, text in mine.items() if any(o.get(name) != text for o in others)]
    return list(filter(None, differ))[:MOST_SETTINGS]


def _estimates(pool: Sequence[ComparedRun]) -> dict[str, Estimate]:
    of_runs = [_values(run) for run in pool]
    names = dict.fromkeys(itertools.chain.from_iterable(of_runs))
    return {
        name: _estimate([values[name] for values in of_runs if name in values]) for name in names
    }


def _values(run: ComparedRun) -> dict[str, Estimate]:
    """Return the measures of one run by their name in a table."""
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
