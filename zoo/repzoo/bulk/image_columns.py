"""Which column of a parquet file has images, in the layout of Hugging Face ``datasets``."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

__all__ = ["features", "holds_images", "image_column"]


def features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What the Hugging Face metadata say of each column; empty without them."""
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    found: dict[str, dict[str, Any]] = json.loads(metadata).get("info", {}).get("features", {})
    return found


def image_column(schema: pa.Schema) -> str | None:
    """The first column that the features call an Image, or else ``image`` or ``img``."""
    marked = features(schema)
    names: list[str] = [n for n in schema.names if marked.get(n, {}).get("_type") == "Image"]
    return next(iter([*names, *(n for n in ("image", "img") if n in schema.names)]), None)


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can: encoded bytes, or a struct of ``bytes`` and ``path``."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
