"""`PosteriorIndex`: posteriors that can be searched, with their uncertainty, on Milvus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from repzoo_client.retrieval.collection import Collection
from repzoo_client.retrieval.documents import Documents, Metadata, as_documents, as_posteriors
from repzoo_client.retrieval.documents import vectors as vectors_of
from repzoo_client.retrieval.errors import IndexExists, InvalidQuery, ModelMismatch
from repzoo_client.retrieval.export import write_documents
from repzoo_client.retrieval.filters import Filter, filter_expression
from repzoo_client.retrieval.layout import IndexInfo, IndexType, create_collection
from repzoo_client.retrieval.milvus import connect, milvus_errors
from repzoo_client.retrieval.searching import (
    TRUST_WEIGHT,
    Answer,
    Metric,
    Queries,
    Search,
    search_all,
)

__all__ = ["PosteriorIndex"]


class PosteriorIndex:
    """Posteriors with ids and metadata, to be searched by several distances.

        >>> index = PosteriorIndex.create("index/", model="simvae-mnist", revision="382cb3", dim=10)
        >>> index.add(["a", "b"], posterior.mean, posterior.variance, posterior.uncertainty)
        >>> answers = index.search(query.mean, query.variance, query.uncertainty, k=10)
        >>> [hit.id for hit in answers[0].hits]
        ['b', 'a']

    It lies in a local folder (milvus-lite), which one index at a time has open, or on a Milvus
    server: ``PosteriorIndex.open("http://milvus:19530")``. It is made by `create` or `open`, and is
    a context manager; `close` lets others open the folder.

    Attributes:
        info: what it remembers of the model.
        location: the folder or URI.
    """

    info: IndexInfo
    location: str

    def __init__(self, collection: Collection) -> None:
        """Take over an open collection: see `create` and `open`."""
        self.info, self.location = collection.info, collection.location
        self._collection = collection

    @classmethod
    def create(
        cls,
        location: str | os.PathLike[str],
        *,
        model: str,
        revision: str = "",
        dim: int,
        scatter: float = 0.15,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        index_type: IndexType = "IVF_FLAT",
        collection: str = "repzoo",
        token: str | None = None,
    ) -> PosteriorIndex:
        """Make an empty index.

        Args:
            location: a folder, which is made, or the URI of a Milvus server.
            model: name of the model whose posteriors it will hold.
            revision: of that model.
            dim: D.
            scatter: s² of the metric "content": SimVAE's σ_y².
            metric: what is near to the model, see `IndexInfo`.
            index_type: how Milvus finds neighbours. "IVF_FLAT", searched in all of its lists, and
                "FLAT" are exact; "HNSW" and "AUTOINDEX" are not, and pay off from millions on.
            collection: its name in Milvus.
            token: of the server.

        Raises:
            IndexExists: if there is one already.
            InvalidQuery: if ``dim`` or ``scatter`` is not positive.
            IndexUnavailable, IndexInUse, RetrievalMissing: if Milvus cannot be used.
        """
        if dim < 1 or not scatter > 0:
            raise InvalidQuery(f"dim is {dim}, scatter {scatter}; expected more than 0")
        info = IndexInfo(model, revision, dim, scatter, metric, index_type)
        connection = connect(os.fspath(location), token=token, create=True)
        try:
            with milvus_errors(os.fspath(location)):
                if connection.client.has_collection(collection):
                    raise IndexExists(f"there is an index {collection!r} in {location} already")
                create_collection(connection.client, collection, info)
            return cls(Collection(connection, os.fspath(location), collection))
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        model: str | None = None,
        revision: str | None = None,
        collection: str = "repzoo",
        token: str | None = None,
    ) -> PosteriorIndex:
        """Open an index.

        Args:
            location: a folder, or the URI of a Milvus server.
            model: refuse an index of another model.
            revision: refuse an index of another revision.
            collection: its name in Milvus.
            token: of the server.

        Raises:
            IndexNotFound: if there is none.
            ModelMismatch: if it holds posteriors of another model or revision.
            IndexUnavailable, IndexInUse, RetrievalMissing: if Milvus cannot be used.
        """
        connection = connect(os.fspath(location), token=token, create=False)
        try:
            index = cls(Collection(connection, os.fspath(location), collection))
            index.require(model=model, revision=revision)
        except BaseException:
            connection.close()
            raise
        return index

    def __enter__(self) -> PosteriorIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is in memory, and let go of the folder or server."""
        self._collection.close()

    def require(self, *, model: str | None = None, revision: str | None = None) -> None:
        """Raise ModelMismatch unless the index holds posteriors of this model and revision."""
        for what, wanted, found in (
            ("model", model, self.info.model),
            ("revision", revision, self.info.revision),
        ):
            if wanted is not None and wanted != found:
                raise ModelMismatch(
                    f"{self.location} holds posteriors of {what} {found or 'unknown'}, not of "
                    f"{wanted}: distances between two models mean nothing. Make another index"
                )

    def add(
        self,
        ids: Sequence[str],
        mean: ArrayLike,
        variance: ArrayLike | None = None,
        uncertainty: ArrayLike | None = None,
        metadata: Sequence[Metadata | None] | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Add posteriors, or replace those that have the same ids.

        What is interrupted can be given again: what is there already is replaced by itself.

        Args:
            ids: N different strings.
            mean: ``[N, D]``.
            variance: ``[N, D]``; None for points.
            uncertainty: ``[N]`` in [0, 1], if the model has one.
            metadata: N JSON objects.
            progress: called with the number of rows of each batch that is in.

        Raises:
            InvalidQuery: if anything cannot be used; nothing is added then.
        """
        given = as_documents(ids, mean, variance, uncertainty, metadata, self.info.dim)
        scaled = self._scaled(given.mean, given.variance)
        documents = Documents(given.ids, *scaled, given.uncertainty, given.metadata)
        step = self._collection.batch_rows()
        for start in range(0, len(documents), step):
            rows = documents.rows(start, start + step)
            self._collection.upsert(rows)
            if progress is not None:
                progress(len(rows))

    def search(
        self,
        mean: ArrayLike,
        variance: ArrayLike | None = None,
        uncertainty: ArrayLike | None = None,
        k: int = 10,
        *,
        metric: Metric = "mean",
        filter: Filter | None = None,  # noqa: A002 - Milvus' own word
        max_uncertainty: float | None = None,
        abstain: float | None = None,
        weight: float = TRUST_WEIGHT,
    ) -> list[Answer]:
        """The k nearest documents of each query.

        ============  ========================================================  =================
        metric        distance of a hit (small is near)                         candidates
        ============  ========================================================  =================
        ``mean``      ‖μ₁ − μ₂‖²                                                all
        ``w2``        ‖μ₁ − μ₂‖² + ‖σ₁ − σ₂‖²                                   all
        ``csd``       ‖μ₁ − μ₂‖² + Σσ₁² + Σσ₂²                                  all
        ``content``   −log likelihood that both show the same content           20 k by ``mean``
        ``trusted``   ‖μ₁ − μ₂‖² (1 + w u₂), u₂ the document's uncertainty      20 k by ``mean``
        ============  ========================================================  =================

        Distances are computed anew in float64 from what is stored, and equal ones are ordered by
        id: over an exact index the result is brute force's. The module `distances` has the
        equations.

        Args:
            mean: ``[N, D]`` or ``[D]``.
            variance: as many; None for points.
            uncertainty: ``[N]`` in [0, 1], the queries' own, if the model has one.
            k: hits of each query, 1 to 800.
            metric: what is near.
            filter: which documents, see `repzoo_client.retrieval.filters`.
            max_uncertainty: leave out documents that are more uncertain, or of which it is unknown.
            abstain: give no hits for queries that are more uncertain than this.
            weight: w of ``trusted``.

        Raises:
            InvalidQuery: if anything cannot be used.
            InvalidFilter: if Milvus does not understand the filter.
        """
        means, variances, doubt = as_posteriors(mean, variance, uncertainty, self.info.dim)
        means, variances = self._scaled(means, variances)
        if abstain is not None and np.isnan(doubt).any():
            raise InvalidQuery("to abstain, the queries' uncertainty must be given")
        search = Search(
            k=k,
            metric=metric,
            expression=filter_expression(filter, max_uncertainty),
            abstain=abstain,
            weight=weight,
            scatter=self.info.scatter,
        )
        return search_all(self._ask, Queries(means, variances, doubt), search)

    def get(self, ids: Sequence[str]) -> Documents:
        """The documents of these ids, without those that are not there, in no order."""
        return Documents.from_rows(self._collection.get(ids), self.info.dim)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove documents; those that are not there are left alone. Returns how many were."""
        there = [row["id"] for row in self._collection.get(ids, ("id",))]
        self._collection.delete(there)
        return len(there)

    def count(self, filter: Filter | None = None, max_uncertainty: float | None = None) -> int:  # noqa: A002
        """How many documents there are, or pass the filter."""
        return self._collection.count(filter_expression(filter, max_uncertainty))

    def documents(self, filter: Filter | None = None) -> Iterator[Documents]:  # noqa: A002
        """All documents, or those that pass the filter, in pages; from a folder sorted by id."""
        for rows in self._collection.pages(filter_expression(filter)):
            yield Documents.from_rows(rows, self.info.dim)

    def metadata(self) -> dict[str, dict[str, Any]]:
        """The metadata of every document, by id."""
        pages = self._collection.pages("", ("id", "metadata"))
        return {row["id"]: row["metadata"] for rows in pages for row in rows}

    def export(self, path: str | os.PathLike[str], filter: Filter | None = None) -> int:  # noqa: A002
        """Write all documents, or those that pass the filter, to an ``.npz`` file.

        It holds ``ids [N]``, ``mean``, ``variance [N, D]``, ``uncertainty [N]`` (NaN where there is
        none), ``metadata [N]`` (JSON) and ``info`` (JSON), in the order of the ids, and is read
        without pickle. Returns N.
        """
        return write_documents(Path(path), self.documents(filter), asdict(self.info))

    def flush(self) -> None:
        """Write what is in memory to where it is searched from, and index it."""
        self._collection.flush()

    def _scaled(self, mean: Any, variance: Any) -> tuple[Any, Any]:
        if self.info.metric == "euclidean":
            return mean, variance
        length = np.sqrt(np.square(mean).sum(1, keepdims=True))
        length[length == 0] = 1
        return mean / length, variance / length**2

    def _ask(self, queries: Queries, field: str, limit: int, expression: str) -> list[Documents]:
        asked = vectors_of(queries.mean, queries.variance, field, query=True)
        found = self._collection.nearest(asked, field, limit, expression)
        return [Documents.from_rows(rows, self.info.dim) for rows in found]
