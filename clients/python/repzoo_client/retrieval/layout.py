"""The layout of an index in Milvus: its collection, its description, its vector indexes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from repzoo_client.retrieval.documents import MAX_ID_BYTES
from repzoo_client.retrieval.errors import IndexNotFound, InvalidQuery
from repzoo_client.retrieval.ranking import TRUST_WEIGHT, Distance, Metric, Ranking

__all__ = [
    "Held",
    "IndexInfo",
    "IndexType",
    "create_collection",
    "prepare",
    "read_info",
    "search_params",
]

#: Which posteriors an index holds: the encoder's, or content posteriors.
Held = Literal["encoder", "content"]
IndexType = Literal["FLAT", "IVF_FLAT", "HNSW", "AUTOINDEX"]

_PROPERTY = "repzoo.index"
#: IVF_FLAT has a single list, so it scans everything. milvus-lite runs it with faiss, many times
#: faster than its FLAT, which runs with NumPy.
_BUILD = {"IVF_FLAT": {"nlist": 1}, "HNSW": {"M": 16, "efConstruction": 200}}
_SEARCH = {"IVF_FLAT": {"nprobe": 1}, "HNSW": {"ef": 128}}


@dataclass(frozen=True)
class IndexInfo:
    """The description that is stored with an index.

    Attributes:
        model: The name of the model whose posteriors the index holds.
        revision: The revision of that model, or "" if unknown.
        dim: D.
        scatter: s², the variance of views around their content, for the metric "content".
        metric: The distance that the model recommends. With "cosine", the encoder's means are
            scaled to length 1 (and variances accordingly) when they are added and searched.
        index_type: How Milvus finds neighbours.
        posterior: Whose posteriors the index holds: the ``encoder``'s, or ``content`` posteriors,
            which are never scaled.
    """

    model: str
    revision: str
    dim: int
    scatter: float
    metric: Distance
    index_type: IndexType
    posterior: Held = "encoder"

    @property
    def distance(self) -> Distance:
        """The distance of the metric "mean". Content means are always compared by "euclidean"."""
        return self.metric if self.posterior == "encoder" else "euclidean"

    def ranking(
        self, metric: Metric | Distance, weight: float = TRUST_WEIGHT, *, where: str = "the index"
    ) -> Ranking:
        """Return how a search of the index ranks documents.

        Args:
            metric: One of the metrics of `PosteriorIndex.search`.
            weight: w of "trusted".
            where: The index, in errors.

        Raises:
            InvalidQuery: If the index does not have this metric.
        """
        if metric == "euclidean" or metric == "cosine":
            if metric != self.distance:
                raise InvalidQuery(
                    f"metric is {metric!r}, but {where} is built for {self.distance!r} distances"
                    + (", as its model recommends" if self.posterior == "encoder" else "")
                )
            metric = "mean"
        needed: Held = "content" if metric == "robust" else "encoder"
        if metric in ("robust", "content") and needed != self.posterior:
            names = {"encoder": "the encoder's posteriors", "content": "content posteriors"}
            raise InvalidQuery(
                f"metric is {metric!r}, which needs {names[needed]}, but {where} holds "
                f"{names[self.posterior]}. Build another index: {self.build_command(needed)}"
            )
        return Ranking(metric, self.distance == "cosine", self.scatter, weight)

    def to_json(self) -> str:
        """Return the description as JSON, readable by the versions that know its fields."""
        fields = asdict(self)
        if self.posterior == "encoder":  # version 0.1 does not know the field
            del fields["posterior"]
        return json.dumps(fields)

    def build_command(self, posterior: Held | None = None) -> str:
        """Return the command that builds another index with this model.

        Args:
            posterior: Which posteriors it will hold; by default the same.
        """
        robust = " --robust" if (posterior or self.posterior) == "content" else ""
        return f"zoo index build DIR --model {self.model}{robust} --out NEW"


def create_collection(client: Any, name: str, info: IndexInfo) -> None:
    """Create the collection of an empty index, with its `IndexInfo` as a property."""
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
        consistency_level="Strong",  # a search finds everything that was added before
        properties={_PROPERTY: info.to_json()},
    )


def read_info(client: Any, name: str, location: str) -> IndexInfo:
    """Read the description of an index.

    Raises:
        IndexNotFound: If the collection does not exist, or is not an index of posteriors.
    """
    if not client.has_collection(name):
        raise IndexNotFound(f"there is no index {name!r} in {location}")
    properties = client.describe_collection(name).get("properties", {})
    if _PROPERTY not in properties:
        raise IndexNotFound(f"the collection {name!r} in {location} is not an index of posteriors")
    return IndexInfo(**json.loads(properties[_PROPERTY]))


def prepare(client: Any, name: str, info: IndexInfo) -> None:
    """Build missing vector indexes, and load the collection.

    Indexes are missing if the process that created the collection was killed.
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
            # Nested, because milvus-lite ignores the flat form that pymilvus sends otherwise.
            params={"params": _BUILD.get(info.index_type, {})},
        )
    if missing:
        client.create_index(name, parameters)
    client.load_collection(name)


def search_params(info: IndexInfo) -> dict[str, Any]:
    """Return the parameters of a search in this index."""
    return {"params": _SEARCH.get(info.index_type, {})}


def _dimensions(dim: int) -> dict[str, int]:
    return {"mean": dim, "deviation": 2 * dim, "radius": dim + 1}
