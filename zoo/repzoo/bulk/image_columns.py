"""The column of a Parquet file that holds images, in the layout of Hugging Face ``datasets``."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

__all__ = ["features", "holds_images", "image_column"]


def features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the Hugging Face feature of each column; empty if the metadata cannot be used.

    A feature that is a list, as ``datasets`` writes it for a column of lists, is left out.
    """
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def image_column(schema: pa.Schema) -> str | None:
    """Return the first column whose feature is an Image, or else ``image`` or ``img``."""
    marked = features(schema)
    names: list[str] = [n for n in schema.names if marked.get(n, {}).get("_type") == "Image"]
    return next(iter([*names, *(n for n in ("image", "img") if n in schema.names)]), None)


def holds_images(kind: pa.DataType) -> bool:
    """Return whether a column of this type can hold images.

    That is the case for encoded bytes, and for a struct with the fields ``bytes`` and ``path``.
    """
    if not pa.types.is_struct(kind):
        return _is_bytes(kind)
    index = kind.get_field_index("bytes")
    # The type is null if all images are paths.
    return index >= 0 and (_is_bytes(kind[index].type) or pa.types.is_null(kind[index].type))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
