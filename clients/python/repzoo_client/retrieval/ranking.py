"""The metrics of an index: which candidates each of them ranks, and by which distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repzoo_client._options import Distance, Metric
from repzoo_client.retrieval import distances
from repzoo_client.retrieval.errors import InvalidQuery

__all__ = ["CANDIDATES", "TRUST_WEIGHT", "Distance", "Metric", "Ranking"]

Floats: TypeAlias = NDArray[np.float64]

#: w of the metric "trusted", chosen on training images; see clients/python/benchmarks/RESULTS.md.
TRUST_WEIGHT = 4.0
#: Metrics that re-rank consider this many times k candidates, the nearest by "mean".
CANDIDATES = 20
#: Extra candidates of the others, because vectors are compared in float32, and equal distances are
#: ordered arbitrarily.
_SPARE = 10

#: The vectors that are compared to find candidates, see `repzoo_client.retrieval.documents`.
_FIELDS = {"w2": "deviation", "csd": "radius"}


@dataclass(frozen=True)
class Ranking:
    """A metric, and its constants.

    Attributes:
        metric: The name of the metric.
        cosine: Whether means have length 1, and "mean" is the cosine distance.
        scatter: s² of "content".
        weight: w of "trusted".

    Raises:
        InvalidQuery: If the metric is unknown, or the weight negative.
    """

    metric: Metric
    cosine: bool
    scatter: float
    weight: float = TRUST_WEIGHT

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise InvalidQuery(
                f"metric is {self.metric!r}; expected one of {', '.join(get_args(Metric))}"
            )
        if not self.weight >= 0:
            raise InvalidQuery(f"weight is {self.weight}; expected 0 or more")

    @property
    def field(self) -> str:
        """The vectors whose Euclidean distances find the candidates."""
        return _FIELDS.get(self.metric, "mean")

    def candidates(self, k: int) -> int:
        """Return the number of candidates for k hits."""
        reranked = self.metric in ("content", "trusted", "robust")
        return k * CANDIDATES if reranked else k + _SPARE

    def distances(
        self,
        query_mean: ArrayLike,
        query_variance: ArrayLike,
        mean: ArrayLike,
        variance: ArrayLike,
        uncertainty: ArrayLike,
    ) -> Floats:
        """Return the distances of queries and documents, in float64.

        Args:
            query_mean: ``[..., D]``, as all means and variances; they broadcast.
            query_variance: The variances of the queries.
            mean: The means of the documents.
            variance: The variances of the documents.
            uncertainty: ``[...]``, of the documents; NaN if unknown.
        """
        ours, theirs = (query_mean, query_variance), (mean, variance)
        match self.metric:
            case "w2":
                return distances.wasserstein(*ours, *theirs)
            case "csd":
                return distances.closed_form_sampled(*ours, *theirs)
            case "robust":
                return -distances.mutual_log_likelihood(*ours, *theirs)
            case "content":
                query = distances.content_posterior(*ours, self.scatter)
                document = distances.content_posterior(*theirs, self.scatter)
                return -distances.mutual_log_likelihood(*query, *document)
        found = distances.euclidean(query_mean, mean)
        if self.cosine:
            found = found / 2  # 1 - cos of vectors of length 1
        if self.metric == "trusted":
            return distances.trusted(found, uncertainty, self.weight)
        return found
