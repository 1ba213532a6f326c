"""How an index lies in Milvus: its collection, what it remembers, and how vectors are found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from repzoo_client.retrieval.documents import MAX_ID_BYTES
from repzoo_client.retrieval.errors import IndexNotFound

__all__ = ["IndexInfo", "IndexType", "create_collection", "prepare", "read_info", "search_params"]

IndexType = Literal["FLAT", "IVF_FLAT", "HNSW", "AUTOINDEX"]

_PROPERTY = "repzoo.index"
#: IVF_FLAT has one list, of everything: in milvus-lite that is faiss' scan, many times faster than
#: its FLAT, which is numpy's.
_BUILD = {"IVF_FLAT": {"nlist": 1}, "HNSW": {"M": 16, "efConstruction": 200}}
_SEARCH = {"IVF_FLAT": {"nprobe": 1}, "HNSW": {"ef": 128}}


@dataclass(frozen=True)
class IndexInfo:
    """What an index remembers.

    Attributes:
        model: the name of the model whose posteriors it holds.
        revision: of that model; "" if it was not said.
        dim: D.
        scatter: s², the variance of views around their content, for the metric "content".
        metric: what is near to the model. With "cosine", means are scaled to length 1 (and
            variances with them) when they are added and searched: ‖μ₁ − μ₂‖² is 2 − 2 cos.
        index_type: of Milvus.
    """

    model: str
    revision: str
    dim: int
    scatter: float
    metric: Literal["euclidean", "cosine"]
    index_type: IndexType


def create_collection(client: Any, name: str, info: IndexInfo) -> None:
    """Make the collection of an empty index, which carries its `IndexInfo` as a property."""
    from pymilvus import DataType  # type: ignore[import-untyped]

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
    schema.add_field("uncertainty", DataType.FLOAT, nullable=True)
    schema.add_field("metadata", DataType.JSON)
    for field, dim in _dimensions(info.dim).items():
        schema.add_field(field, DataType.FLOAT_VECTOR, dim=dim)
    client.create_collection(
        name,
        schema=schema,
        consistency_level="Strong",  # what was added is found
        properties={_PROPERTY: json.dumps(asdict(info))},
    )


def read_info(client: Any, name: str, location: str) -> IndexInfo:
    """What the index of that name remembers.

    Raises:
        IndexNotFound: if there is no such collection, or it is none of ours.
    """
    if not client.has_collection(name):
        raise IndexNotFound(f"there is no index {name!r} in {location}")
    properties = client.describe_collection(name).get("properties", {})
    if _PROPERTY not in properties:
        raise IndexNotFound(f"the collection {name!r} in {location} is not an index of posteriors")
    return IndexInfo(**json.loads(properties[_PROPERTY]))


def prepare(client: Any, name: str, info: IndexInfo) -> None:
    """Give every vector its index, and load the collection.

    Whoever made the collection may have been killed before that.
    """
    there = {*client.list_indexes(name)}
    parameters = client.prepare_index_params()
    missing = [field for field in _dimensions(info.dim) if field not in there]
    for field in missing:
        parameters.add_index(
            field,
            index_name=field,
            index_type=info.index_type,
            metric_type="L2",
            # Flat, as pymilvus sends them by itself, milvus-lite passes them over.
            params={"params": _BUILD.get(info.index_type, {})},
        )
    if missing:
        client.create_index(name, parameters)
    client.load_collection(name)


def search_params(info: IndexInfo) -> dict[str, Any]:
    """What a search in this index is asked with."""
    return {"params": _SEARCH.get(info.index_type, {})}


def _dimensions(dim: int) -> dict[str, int]:
    return {"mean": dim, "deviation": 2 * dim, "radius": dim + 1}
