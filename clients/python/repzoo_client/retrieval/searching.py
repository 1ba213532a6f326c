"""Searching: candidates from Milvus, distances anew in float64, and honest answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from repzoo_client.retrieval import distances
from repzoo_client.retrieval.documents import Documents
from repzoo_client.retrieval.errors import InvalidQuery

__all__ = [
    "MAX_K",
    "TRUST_WEIGHT",
    "Answer",
    "Ask",
    "Hit",
    "Metric",
    "Queries",
    "Search",
    "search_all",
]

Floats: TypeAlias = NDArray[np.float64]

Metric = Literal["mean", "w2", "csd", "content", "trusted"]

#: 20 times as many are the most that Milvus gives for one query (16,384).
MAX_K = 800
#: w of the metric "trusted"; chosen on training images: clients/python/benchmarks/RESULTS.md.
TRUST_WEIGHT = 4.0
#: Candidates beyond k: Milvus ranks in float32, and equal distances in any order.
_SPARE = 10
#: Metrics that re-rank look among this many times k.
CANDIDATES = 20
#: Queries of one request, and hits of all of them together.
_REQUEST_QUERIES = 32
_REQUEST_HITS = 16_384

_FIELDS = {
    "mean": "mean",
    "w2": "deviation",
    "csd": "radius",
    "content": "mean",
    "trusted": "mean",
}


@dataclass(frozen=True, eq=False)
class Queries:
    """N posteriors: float32 ``[N, D]``, ``[N, D]`` and ``[N]``, NaN where it is not known."""

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    uncertainty: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> Queries:
        """Those of these rows."""
        return Queries(self.mean[rows], self.variance[rows], self.uncertainty[rows])


#: (queries, vector field, how many, filter) -> the nearest documents of each.
Ask: TypeAlias = Callable[[Queries, str, int, str], list[Documents]]


@dataclass(frozen=True)
class Search:
    """What is asked of every query; see `PosteriorIndex.search`."""

    k: int
    metric: Metric
    expression: str
    abstain: float | None
    weight: float
    scatter: float

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise InvalidQuery(f"k is {self.k}; expected 1 to {MAX_K:,}")
        if self.metric not in get_args(Metric):
            raise InvalidQuery(
                f"metric is {self.metric!r}; expected one of {', '.join(get_args(Metric))}"
            )
        if not self.weight >= 0:
            raise InvalidQuery(f"weight is {self.weight}; expected 0 or more")


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes:
        id: of the document.
        distance: by the metric of the search, small is near.
        uncertainty: the document's own, if it has one.
        probability: of being right, the same for all hits of a query: see `Answer.probability`.
        metadata: the document's.
    """

    id: str
    distance: float
    uncertainty: float | None
    probability: float | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What was found for one query.

    Attributes:
        hits: nearest first; none if the index abstained.
        uncertainty: the query's own, if it was given.
        abstained: whether the query is too uncertain to be answered.
    """

    hits: tuple[Hit, ...]
    uncertainty: float | None
    abstained: bool = False

    @property
    def probability(self) -> float | None:
        """That a hit is right, shows what the query shows: 1 − the query's calibrated uncertainty.

        Calibrated is it for the nearest by "mean" in a gallery like the one that the model's config
        names. Ten hits are nearly as often right as the nearest one; in another gallery it is no
        probability, but still says which queries are safe. clients/python/benchmarks/RESULTS.md has
        numbers. None if the query's uncertainty was not given.
        """
        return None if self.uncertainty is None else 1 - self.uncertainty


def search_all(ask: Ask, queries: Queries, search: Search) -> list[Answer]:
    """An answer for each query."""
    known = [None if np.isnan(u) else float(u) for u in queries.uncertainty]
    silent = [search.abstain is not None and u is not None and u > search.abstain for u in known]
    answers = [Answer((), u, abstained=s) for u, s in zip(known, silent, strict=True)]
    rows = np.flatnonzero(~np.array(silent, bool))
    reranked = search.metric in ("content", "trusted")
    limit = search.k * CANDIDATES if reranked else search.k + _SPARE
    step = max(1, min(_REQUEST_QUERIES, _REQUEST_HITS // limit))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        found = ask(queries.take(part), _FIELDS[search.metric], limit, search.expression)
        for row, documents in zip(part, found, strict=True):
            hits = _rank(queries.take(np.array([row])), documents, search)
            answers[row] = Answer(hits, known[row])
    return answers


def _rank(query: Queries, found: Documents, search: Search) -> tuple[Hit, ...]:
    """The k nearest of the candidates."""
    if not len(found):
        return ()
    distance = _distance(query, found, search)
    order = sorted(range(len(found)), key=lambda i: (distance[i], found.ids[i]))
    doubt = float(query.uncertainty[0])
    probability = None if np.isnan(doubt) else 1 - doubt
    return tuple(
        Hit(
            found.ids[i],
            float(distance[i]),
            None if np.isnan(found.uncertainty[i]) else float(found.uncertainty[i]),
            probability,
            found.metadata[i],
        )
        for i in order[: search.k]
    )


def _distance(query: Queries, found: Documents, search: Search) -> Floats:
    ours, theirs = (query.mean, query.variance), (found.mean, found.variance)
    if search.metric == "w2":
        return distances.wasserstein(*ours, *theirs)
    if search.metric == "csd":
        return distances.closed_form_sampled(*ours, *theirs)
    if search.metric == "content":
        contents = (distances.content_posterior(*each, search.scatter) for each in (ours, theirs))
        return -distances.mutual_log_likelihood(*next(contents), *next(contents))
    distance = distances.euclidean(query.mean, found.mean)
    if search.metric == "trusted":
        return distances.trusted(distance, found.uncertainty, search.weight)
    return distance
