"""What is asked of Milvus: one collection, rows in and out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repzoo_client.retrieval.layout import IndexInfo, prepare, read_info, search_params
from repzoo_client.retrieval.milvus import Connection, milvus_errors

__all__ = ["ALL_FIELDS", "Collection"]

#: What a document is read from, see `repzoo_client.retrieval.documents`.
ALL_FIELDS = ("id", "deviation", "uncertainty", "metadata")

#: Rows of one request, and of a page when all are read.
_REQUEST_ROWS = 1000
_PAGE_ROWS = 8000
#: Bytes of vectors in one request; Milvus takes 64 MiB.
_REQUEST_BYTES = 2**23

Row = dict[str, Any]


class Collection:
    """A collection of Milvus that is an index; its errors are ours.

    Attributes:
        info: what the index remembers.
        location: the folder or URI.
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
        """Let go of the connection."""
        self._connection.close()

    def batch_rows(self) -> int:
        """How many rows go into one `upsert`."""
        return max(1, min(_REQUEST_ROWS, _REQUEST_BYTES // (4 * (4 * self.info.dim + 1))))

    def upsert(self, rows: list[Row]) -> None:
        """Add rows, or replace those with the same ids."""
        with milvus_errors(self.location):
            self._client.upsert(self._name, rows)

    def nearest(
        self, vectors: NDArray[np.float32], field: str, limit: int, expression: str
    ) -> list[list[Row]]:
        """The rows that are nearest to each vector."""
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
        """The rows of these ids that are there."""
        rows: list[Row] = []
        for start in range(0, len(ids), _REQUEST_ROWS):
            part = [*ids[start : start + _REQUEST_ROWS]]
            with milvus_errors(self.location):
                rows += self._client.get(self._name, ids=part, output_fields=[*fields])
        return rows

    def delete(self, ids: Sequence[str]) -> None:
        """Remove the rows of these ids."""
        for start in range(0, len(ids), _REQUEST_ROWS):
            with milvus_errors(self.location):
                self._client.delete(self._name, ids=[*ids[start : start + _REQUEST_ROWS]])

    def count(self, expression: str) -> int:
        """How many rows pass."""
        with milvus_errors(self.location, filtered=bool(expression)):
            rows = self._client.query(self._name, filter=expression, output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def pages(
        self, expression: str, fields: Sequence[str] = ALL_FIELDS
    ) -> Iterator[Sequence[Mapping[str, Any]]]:
        """All rows that pass; those of a folder in one page, sorted by id."""
        query = {"filter": expression, "output_fields": [*fields]}
        with milvus_errors(self.location, filtered=bool(expression)):
            if self._connection.local:
                # An iterator would look at all rows for every page, and they are in memory.
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
        """Write what is in memory to where it is searched from, and index it."""
        with milvus_errors(self.location):
            self._client.flush(self._name)
