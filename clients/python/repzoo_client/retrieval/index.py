"""`PosteriorIndex`: an index of posteriors and their uncertainty, on Milvus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from repzoo_client.retrieval.collection import Collection
from repzoo_client.retrieval.documents import (
    Documents,
    Metadata,
    as_documents,
    as_ids,
    as_posteriors,
)
from repzoo_client.retrieval.documents import vectors as vectors_of
from repzoo_client.retrieval.errors import IndexExists, InvalidQuery, ModelMismatch
from repzoo_client.retrieval.export import write_documents
from repzoo_client.retrieval.filters import Filter, filter_expression
from repzoo_client.retrieval.layout import Held, IndexInfo, IndexType, create_collection
from repzoo_client.retrieval.milvus import connect, milvus_errors
from repzoo_client.retrieval.ranking import TRUST_WEIGHT, Distance, Metric
from repzoo_client.retrieval.searching import Answer, Queries, Search, search_all

__all__ = ["PosteriorIndex"]


class PosteriorIndex:
    """An index of posteriors with IDs and metadata, which several distances can search.

        >>> index = PosteriorIndex.create("index/", model="simvae-mnist", revision="382cb3", dim=10)
        >>> index.add(["a", "b"], posterior.mean, posterior.variance, posterior.uncertainty)
        >>> answers = index.search(query.mean, query.variance, query.uncertainty, k=10)
        >>> [hit.id for hit in answers[0].hits]
        ['b', 'a']

    An index is a local folder (milvus-lite), or on a Milvus server:
    ``PosteriorIndex.open("http://milvus:19530")``. A folder can only be open once at a time. Make
    an index with `create` or `open`, and close it with `close` or ``with``.

    Attributes:
        info: The description of the index.
        location: The folder or URI.
    """

    info: IndexInfo
    location: str

    def __init__(self, collection: Collection) -> None:
        """Wrap an open collection. Use `create` or `open` instead."""
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
        metric: Distance = "euclidean",
        posterior: Held = "encoder",
        index_type: IndexType = "IVF_FLAT",
        collection: str = "repzoo",
        token: str | None = None,
    ) -> PosteriorIndex:
        """Create an empty index.

        Args:
            location: A folder, which is created, or the URI of a Milvus server.
            model: The name of the model whose posteriors the index will hold.
            revision: The revision of that model.
            dim: D.
            scatter: s² of the metric "content": SimVAE's σ_y².
            metric: The distance that the model recommends, see `IndexInfo`.
            posterior: Which posteriors the index will hold. For the metric "robust", add and search
                content posteriors: ``content`` means and variances.
            index_type: How Milvus finds neighbours. "IVF_FLAT" (with all lists searched) and "FLAT"
                are exact. "HNSW" and "AUTOINDEX" are not; they pay off for millions of documents.
            collection: The name of the collection in Milvus.
            token: The token of the server.

        Raises:
            IndexExists: If the index exists already.
            InvalidQuery: If ``dim`` or ``scatter`` is not positive, or a choice is unknown.
            IndexUnavailable, IndexInUse, RetrievalMissing: If Milvus cannot be used.
        """
        if dim < 1 or not scatter > 0:
            raise InvalidQuery(f"dim is {dim} and scatter {scatter}; expected more than 0 for both")
        _require_choice("metric", metric, get_args(Distance))
        _require_choice("posterior", posterior, get_args(Held))
        _require_choice("index_type", index_type, get_args(IndexType))
        info = IndexInfo(model, revision, dim, scatter, metric, index_type, posterior)
        connection = connect(os.fspath(location), token=token, create=True)
        try:
            with milvus_errors(os.fspath(location)):
                if connection.client.has_collection(collection):
                    raise IndexExists(f"{location} already holds an index {collection!r}")
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
            location: A folder, or the URI of a Milvus server.
            model: Refuse an index of another model.
            revision: Refuse an index of another revision.
            collection: The name of the collection in Milvus.
            token: The token of the server.

        Raises:
            IndexNotFound: If the index does not exist.
            ModelMismatch: If it holds posteriors of another model or revision.
            IndexUnavailable, IndexInUse, RetrievalMissing: If Milvus cannot be used.
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
        """Write everything to disk, and close the folder or the connection."""
        self._collection.close()

    def require(
        self,
        *,
        model: str | None = None,
        revision: str | None = None,
        metric: Metric | Distance | None = None,
    ) -> None:
        """Check that the index can answer a search.

        Raises:
            ModelMismatch: If it holds posteriors of another model or revision.
            InvalidQuery: If its posteriors do not have this metric.
        """
        for what, wanted, found in (
            ("model", model, self.info.model),
            ("revision", revision, self.info.revision),
        ):
            if wanted is not None and wanted != found:
                raise ModelMismatch(
                    f"{self.location} holds posteriors of {what} {found or 'unknown'}, not of "
                    f"{wanted}: distances between models mean nothing. Build another index: "
                    f"{self.info.build_command()}"
                )
        if metric is not None:
            self.info.ranking(metric, where=self.location)

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
        """Add posteriors, and replace those with the same IDs.

        A call that was interrupted can be repeated.

        Args:
            ids: N different strings.
            mean: ``[N, D]``.
            variance: ``[N, D]``, or None for points. Content posteriors are never points.
            uncertainty: ``[N]`` in [0, 1], if the model has one.
            metadata: N JSON objects.
            progress: Called with the number of rows of each batch that was added.

        Raises:
            InvalidQuery: If an argument is invalid; nothing is added then.
        """
        if self._holds_content and variance is None:
            raise InvalidQuery(f"{self.location} holds content posteriors, which need a variance")
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
        metric: Metric | Distance = "mean",
        filter: Filter | None = None,  # noqa: A002 - Milvus's own word
        max_uncertainty: float | None = None,
        abstain: float | None = None,
        weight: float = TRUST_WEIGHT,
    ) -> list[Answer]:
        """Return the k nearest documents of each query.

        ============  ========================================================  =================
        metric        distance of a hit (smaller is nearer)                     candidates
        ============  ========================================================  =================
        ``mean``      d = ‖μ₁ − μ₂‖², or 1 − cos (μ₁, μ₂)                       all
        ``w2``        ‖μ₁ − μ₂‖² + ‖σ₁ − σ₂‖²                                   all
        ``csd``       ‖μ₁ − μ₂‖² + Σσ₁² + Σσ₂²                                  all
        ``content``   −log likelihood that both show the same content           20 k by ``mean``
        ``trusted``   d (1 + w u₂), u₂ the document's uncertainty               20 k by ``mean``
        ``robust``    −log likelihood that both show the same content           20 k by ``mean``
        ============  ========================================================  =================

        Distances are recomputed in float64, and ties are ordered by ID, so an exact index returns
        what brute force returns. The module `distances` has the equations. ``mean`` is the cosine
        distance, 1 − cos, if ``info.distance`` is "cosine"; all vectors then have length 1.

        ``content`` derives the likelihood from the encoder's posteriors and one scatter s² for all
        images. ``robust`` needs an index of content posteriors, which express how much each image
        reveals: its likelihood is that of `distances.mutual_log_likelihood`, with the logarithm, so
        that documents that could show anything are near to nothing.

        ``mean`` is the default for both kinds of posterior, and takes an eighth of the time of
        metrics that re-rank. docs/how-to/search/search-images.md says which metric to use, and when
        to abstain.

        Args:
            mean: ``[N, D]`` or ``[D]``.
            variance: The same shape as ``mean``, or None for points; "robust" needs it.
            uncertainty: ``[N]`` in [0, 1], the uncertainty of the queries, if the model has one.
            k: The number of hits per query, 1 to 800.
            metric: One of the metrics above. "euclidean" or "cosine", whichever is
                ``info.distance``, also stands for "mean".
            filter: Which documents to search, see `repzoo_client.retrieval.filters`.
            max_uncertainty: Skip documents whose uncertainty is larger or unknown.
            abstain: Return no hits for queries whose uncertainty is larger.
            weight: w of ``trusted``.

        Raises:
            InvalidQuery: If an argument is invalid.
            InvalidFilter: If Milvus does not understand the filter.
        """
        means, variances, doubt = as_posteriors(mean, variance, uncertainty, self.info.dim)
        means, variances = self._scaled(means, variances)
        if abstain is not None and np.isnan(doubt).any():
            raise InvalidQuery("abstain needs the uncertainty of the queries")
        ranking = self.info.ranking(metric, weight, where=self.location)
        if metric == "robust" and variance is None:
            raise InvalidQuery(
                "metric robust needs the variances of the queries' content posteriors"
            )
        search = Search(k, ranking, filter_expression(filter, max_uncertainty), abstain)
        return search_all(self._ask, Queries(means, variances, doubt), search)

    def get(self, ids: Sequence[str]) -> Documents:
        """Return the documents with these IDs, as far as they exist, in any order."""
        return Documents.from_rows(self._collection.get(as_ids(ids)), self.info.dim)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents, as far as they exist; return the number of deleted ones."""
        there = [row["id"] for row in self._collection.get(as_ids(ids), ("id",))]
        self._collection.delete(there)
        return len(there)

    def count(self, filter: Filter | None = None, max_uncertainty: float | None = None) -> int:  # noqa: A002
        """Return the number of documents, or of those that match the filter."""
        return self._collection.count(filter_expression(filter, max_uncertainty))

    def documents(self, filter: Filter | None = None) -> Iterator[Documents]:  # noqa: A002
        """Yield the documents, or those that match the filter, in pages; a folder's by ID."""
        for rows in self._collection.pages(filter_expression(filter)):
            yield Documents.from_rows(rows, self.info.dim)

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of every document, by ID."""
        pages = self._collection.pages("", ("id", "metadata"))
        return {row["id"]: row["metadata"] for rows in pages for row in rows}

    def export(self, path: str | os.PathLike[str], filter: Filter | None = None) -> int:  # noqa: A002
        """Write all documents, or those that match the filter, to an ``.npz`` file.

        The file holds ``ids [N]``, ``mean [N, D]``, ``variance [N, D]``, ``uncertainty [N]`` (NaN
        if unknown), ``metadata [N]`` (JSON) and ``info`` (JSON), sorted by ID. Reading it needs no
        pickle.

        Returns:
            N.
        """
        return write_documents(Path(path), self.documents(filter), asdict(self.info))

    def flush(self) -> None:
        """Write documents in memory to disk, and build their vector indexes."""
        self._collection.flush()

    @property
    def _holds_content(self) -> bool:
        return self.info.posterior == "content"

    def _scaled(self, mean: Any, variance: Any) -> tuple[Any, Any]:
        if self.info.distance == "euclidean":
            return mean, variance
        length = np.sqrt(np.square(mean).sum(1, keepdims=True))
        length[length == 0] = 1
        return mean / length, variance / length**2

    def _ask(self, queries: Queries, field: str, limit: int, expression: str) -> list[Documents]:
        asked = vectors_of(queries.mean, queries.variance, field, query=True)
        found = self._collection.nearest(asked, field, limit, expression)
        return [Documents.from_rows(rows, self.info.dim) for rows in found]


def _require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidQuery(f"{name} is {value!r}; expected one of {', '.join(choices)}")
