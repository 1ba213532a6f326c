"""One collection in Milvus: rows in, rows out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repzoo_client.retrieval.filters import literal
from repzoo_client.retrieval.layout import IndexInfo, prepare, read_info, search_params
from repzoo_client.retrieval.milvus import Connection, milvus_errors

__all__ = ["ALL_FIELDS", "Collection"]

#: The fields that make a document, see `repzoo_client.retrieval.documents`.
ALL_FIELDS = ("id", "deviation", "uncertainty", "metadata")

#: Rows per request, and per page when all rows are read.
_REQUEST_ROWS = 1000
_PAGE_ROWS = 8000
#: Bytes of vectors per request; Milvus accepts 64 MiB.
_REQUEST_BYTES = 2**23

Row = dict[str, Any]


class Collection:
    """The Milvus collection of an index, which raises our errors instead of Milvus's.

    Attributes:
        info: The description that is stored with the index.
        location: The folder or URI.
    """

    info: IndexInfo
    location: str

    def __init__(self, connection: Connection, location: str, name: str) -> None:
        self.location = location
        self._connection = connection
        self._client = connection.client
        self._name = name
        with milvus_errors(location):
            self.info = read_info(self._client, name, location)
            prepare(self._client, name, self.info)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def batch_rows(self) -> int:
        """Return the number of rows for one `upsert`."""
        return max(1, min(_REQUEST_ROWS, _REQUEST_BYTES // (4 * (4 * self.info.dim + 1))))

    def upsert(self, rows: list[Row]) -> None:
        """Add rows, and replace rows with the same IDs."""
        with milvus_errors(self.location):
            self._client.upsert(self._name, rows)

    def nearest(
        self, vectors: NDArray[np.float32], field: str, limit: int, expression: str
    ) -> list[list[Row]]:
        """Return the rows nearest to each vector."""
        with milvus_errors(self.location, filtered=bool(expression)):
            found = self._client.search(
                self._name,
                data=list(vectors),
                anns_field=field,
                limit=limit,
                filter=expression,
                output_fields=[*ALL_FIELDS[1:]],
                search_params=search_params(self.info),
            )
        return [[{"id": hit["id"], **hit["entity"]} for hit in hits] for hits in found]

    def get(self, ids: Sequence[str], fields: Sequence[str] = ALL_FIELDS) -> list[Row]:
        """Return the rows with these IDs, as far as they exist."""
        rows: list[Row] = []
        for expression in _having(ids):
            with milvus_errors(self.location):
                rows += self._client.query(
                    self._name, filter=expression, output_fields=[*fields], limit=_REQUEST_ROWS
                )
        return rows

    def delete(self, ids: Sequence[str]) -> None:
        """Delete the rows with these IDs."""
        for expression in _having(ids):
            with milvus_errors(self.location):
                self._client.delete(self._name, filter=expression)

    def count(self, expression: str) -> int:
        """Return the number of rows that match an expression."""
        with milvus_errors(self.location, filtered=bool(expression)):
            rows = self._client.query(self._name, filter=expression, output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def pages(
        self, expression: str, fields: Sequence[str] = ALL_FIELDS
    ) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Yield all matching rows in pages. A folder gives one page, sorted by ID."""
        query = {"filter": expression, "output_fields": [*fields]}
        with milvus_errors(self.location, filtered=bool(expression)):
            if self._connection.local:
                # An iterator would scan all rows for every page, and they are in memory anyway.
                rows = self._client.query(self._name, limit=max(1, self.count("")), **query)
                yield sorted(rows, key=lambda row: row["id"])
                return
            pages = self._client.query_iterator(self._name, batch_size=_PAGE_ROWS, **query)
            try:
                while page := pages.next():
                    yield page
            finally:
                pages.close()

    def flush(self) -> None:
        """Write rows in memory to disk, and build their indexes."""
        with milvus_errors(self.location):
            self._client.flush(self._name)


def _having(ids: Sequence[str]) -> Iterator[str]:
    """Yield filters for some of the IDs each. pymilvus itself does not quote them."""
    for start in range(0, len(ids), _REQUEST_ROWS):
        yield f"id in [{', '.join(map(literal, ids[start : start + _REQUEST_ROWS]))}]"
