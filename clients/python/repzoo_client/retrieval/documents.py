"""The documents of an index, and their rows in Milvus.

A row has three vectors. With them, plain L2 search serves every distance exactly:

    field        vector          dimensions   metric, and the query vector
    mean         μ               D            "mean": μ; candidates for "content" and "trusted"
    deviation    [μ, σ]          2D           "w2": [μ, σ]; posteriors are also read back from it
    radius       [μ, √Σσ²]       D + 1        "csd": [μ, 0]

The other fields are ``id`` (the primary key), ``uncertainty`` (null if unknown) and ``metadata``
(JSON).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repzoo_client.retrieval.errors import InvalidQuery

__all__ = [
    "MAX_ID_BYTES",
    "Documents",
    "Metadata",
    "as_documents",
    "as_ids",
    "as_posteriors",
    "vectors",
]

Floats: TypeAlias = NDArray[np.float32]
Metadata: TypeAlias = Mapping[str, Any]

#: The length limit of an ID, in bytes of UTF-8.
MAX_ID_BYTES = 1024


@dataclass(frozen=True, eq=False)
class Documents:
    """N posteriors with their IDs.

    Attributes:
        ids: N strings.
        mean: float32 ``[N, D]``.
        variance: float32 ``[N, D]``.
        uncertainty: float32 ``[N]`` in [0, 1]; NaN if unknown.
        metadata: N JSON objects.
    """

    ids: list[str]
    mean: Floats
    variance: Floats
    uncertainty: Floats
    metadata: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return the rows in Milvus for the documents from ``start`` to ``stop``."""
        mean, variance = self.mean[start:stop], self.variance[start:stop]
        fields = [vectors(mean, variance, field) for field in ("mean", "deviation", "radius")]
        return [
            {
                "id": self.ids[start + i],
                "mean": fields[0][i],
                "deviation": fields[1][i],
                "radius": fields[2][i],
                "uncertainty": None if np.isnan(u) else float(u),
                "metadata": self.metadata[start + i],
            }
            for i, u in enumerate(self.uncertainty[start:stop])
        ]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], dim: int) -> Documents:
        """Read documents from rows with ``id``, ``deviation``, ``uncertainty`` and ``metadata``."""
        rows = list(rows)
        both = np.array([row["deviation"] for row in rows], np.float32).reshape(-1, 2 * dim)
        known = [row["uncertainty"] for row in rows]
        return cls(
            [row["id"] for row in rows],
            both[:, :dim],
            np.square(both[:, dim:]),
            np.array([np.nan if u is None else u for u in known], np.float32),
            [row["metadata"] for row in rows],
        )


def vectors(mean: Floats, variance: Floats, field: str, *, query: bool = False) -> Floats:
    """Return the vectors of one field: ``[N, D]``, ``[N, 2D]`` or ``[N, D + 1]``."""
    if field == "mean":
        return mean
    if field == "deviation":
        return np.concatenate([mean, np.sqrt(variance)], axis=1)
    total = np.zeros(len(mean)) if query else variance.sum(1, dtype=np.float64)
    return np.concatenate([mean, np.sqrt(total)[:, None]], axis=1).astype(np.float32)


def as_documents(
    ids: Sequence[str],
    mean: ArrayLike,
    variance: ArrayLike | None,
    uncertainty: ArrayLike | None,
    metadata: Sequence[Metadata | None] | None,
    dim: int,
) -> Documents:
    """Check the arguments of `PosteriorIndex.add`.

    Raises:
        InvalidQuery: If shapes do not match, values are not finite, the IDs are not N different
            strings of at most 1,024 bytes, or metadata are not JSON objects.
    """
    ids = as_ids(ids)
    mean, variance, doubt = as_posteriors(mean, variance, uncertainty, dim)
    if len(ids) != len(mean):
        raise InvalidQuery(f"there are {len(ids)} IDs for {len(mean)} posteriors")
    for name in ids:
        if not isinstance(name, str) or not 0 < len(_bytes(name)) <= MAX_ID_BYTES:
            raise InvalidQuery(f"ID {name!r}: expected UTF-8 text of 1 to {MAX_ID_BYTES:,} bytes")
    if len({*ids}) != len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise InvalidQuery(f"ID {twice!r} occurs twice in one call")
    facts = [_as_json(fact) for fact in (metadata if metadata is not None else [None] * len(ids))]
    if len(facts) != len(ids):
        raise InvalidQuery(f"there are {len(facts)} metadata objects for {len(ids)} IDs")
    return Documents(ids, mean, variance, doubt, facts)


def as_ids(ids: str | Sequence[str]) -> list[str]:
    """Return IDs as a list; a string is one ID, not a sequence of characters."""
    return [ids] if isinstance(ids, str) else list(ids)


def as_posteriors(
    mean: ArrayLike, variance: ArrayLike | None, uncertainty: ArrayLike | None, dim: int
) -> tuple[Floats, Floats, Floats]:
    """Return float32 ``[N, D]``, ``[N, D]`` and ``[N]``.

    Missing variances are 0, missing uncertainties NaN.

    Raises:
        InvalidQuery: If shapes do not match, or values are not finite or out of range.
    """
    means = np.atleast_2d(_floats(mean, "mean"))
    if means.ndim != 2 or means.shape[1] != dim:
        raise InvalidQuery(
            f"mean has shape {list(means.shape)}; expected [N, {dim}] for this index"
        )
    variances = np.zeros_like(means)
    if variance is not None:
        variances = np.atleast_2d(_floats(variance, "variance"))
    if variances.shape != means.shape:
        raise InvalidQuery(
            f"variance has shape {list(variances.shape)}; expected {list(means.shape)} like mean"
        )
    if (variances < 0).any():
        raise InvalidQuery(f"variance must not be negative, got {variances.min():g}")
    doubt = np.full(len(means), np.nan, np.float32)
    if uncertainty is not None:
        doubt = np.atleast_1d(_floats(uncertainty, "uncertainty"))
        if doubt.shape != (len(means),):
            raise InvalidQuery(
                f"uncertainty has shape {list(doubt.shape)}; expected [{len(means)}]"
            )
        if ((doubt < 0) | (doubt > 1)).any():
            raise InvalidQuery("uncertainty must lie in [0, 1]")
    return means, variances, doubt


def _as_json(fact: Metadata | None) -> dict[str, Any]:
    import orjson  # what pymilvus encodes metadata with

    try:
        found = dict(fact or {})
        orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, ValueError) as error:
        raise InvalidQuery(f"metadata {fact!r} is not a JSON object: {error}") from None
    return found


def _floats(values: ArrayLike, name: str) -> Floats:
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidQuery(f"{name} is not an array of numbers: {error}") from None
    if not np.isfinite(array).all():
        raise InvalidQuery(f"{name} must be finite")
    return array


def _bytes(name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        return b""
