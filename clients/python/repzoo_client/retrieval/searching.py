"""Searching: candidates from Milvus, distances recomputed in float64, and abstention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from repzoo_client.retrieval.documents import Documents
from repzoo_client.retrieval.errors import InvalidQuery
from repzoo_client.retrieval.ranking import Ranking

__all__ = ["MAX_K", "Answer", "Ask", "Hit", "Queries", "Search", "search_all"]

#: 20 times this number stays below the 16,384 hits that Milvus returns per query.
MAX_K = 800
#: Queries per request, and hits of all queries of a request together.
_REQUEST_QUERIES = 32
_REQUEST_HITS = 16_384


@dataclass(frozen=True, eq=False)
class Queries:
    """N posteriors: float32 ``[N, D]``, ``[N, D]`` and ``[N]``; unknown uncertainties are NaN."""

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    uncertainty: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> Queries:
        """Return the queries of these rows."""
        return Queries(self.mean[rows], self.variance[rows], self.uncertainty[rows])


#: (queries, vector field, number of hits, filter) -> the nearest documents of each query.
Ask: TypeAlias = Callable[[Queries, str, int, str], list[Documents]]


@dataclass(frozen=True)
class Search:
    """The options of a search; see `PosteriorIndex.search`."""

    k: int
    ranking: Ranking
    expression: str
    abstain: float | None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise InvalidQuery(f"k is {self.k}; expected 1 to {MAX_K:,}")


@dataclass(frozen=True)
class Hit:
    """A document that a search found.

    Attributes:
        id: The document's ID.
        distance: The distance by the metric of the search; smaller means nearer.
        uncertainty: The document's uncertainty, or None if unknown.
        probability: The probability of being right, the same for all hits of a query: see
            `Answer.probability`.
        metadata: The document's metadata.
    """

    id: str
    distance: float
    uncertainty: float | None
    probability: float | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The result of one query.

    Attributes:
        hits: The nearest documents, nearest first; empty if the index abstained.
        uncertainty: The query's uncertainty, or None if it was not given.
        abstained: Whether the query is too uncertain to be answered.
    """

    hits: tuple[Hit, ...]
    uncertainty: float | None
    abstained: bool = False

    @property
    def probability(self) -> float | None:
        """1 − the query's uncertainty; for most models, the probability that a hit has its label.

        It is calibrated for the nearest hit by "mean" among the encoder's posteriors, in a gallery
        like the one that the model's config names, and for queries like those that the model was
        fitted to. Ten hits are right nearly as often as the nearest one. In other galleries it is
        not a probability, but still tells which queries are safe. An index of content posteriors is
        right more often for degraded queries, see docs/how-to/search/search-images.md. Numbers are
        in clients/python/benchmarks/RESULTS.md. None if the query's uncertainty was not given.
        """
        return None if self.uncertainty is None else 1 - self.uncertainty


def search_all(ask: Ask, queries: Queries, search: Search) -> list[Answer]:
    """Return an answer for each query."""
    known = [None if np.isnan(u) else float(u) for u in queries.uncertainty]
    silent = [search.abstain is not None and u is not None and u > search.abstain for u in known]
    answers = [Answer((), u, abstained=s) for u, s in zip(known, silent, strict=True)]
    rows = np.flatnonzero(~np.array(silent, bool))
    limit = search.ranking.candidates(search.k)
    step = max(1, min(_REQUEST_QUERIES, _REQUEST_HITS // limit))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        found = ask(queries.take(part), search.ranking.field, limit, search.expression)
        for row, documents in zip(part, found, strict=True):
            hits = _rank(queries.take(np.array([row])), documents, search)
            answers[row] = Answer(hits, known[row])
    return answers


def _rank(query: Queries, found: Documents, search: Search) -> tuple[Hit, ...]:
    """Return the k nearest candidates."""
    if not len(found):
        return ()
    distance = search.ranking.distances(
        query.mean, query.variance, found.mean, found.variance, found.uncertainty
    )
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
