"""Safetensors in memory: named arrays, and JSON in the metadata.

The library checks the file (offsets, overlaps, sizes). It does not return the metadata, which are
read from the header here; the header begins with its length as eight little-endian bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

__all__ = ["SAFETENSORS_TYPE", "dump", "parse"]

SAFETENSORS_TYPE = "application/x-safetensors"

#: The supported types, by their names in a safetensors header.
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "F32": np.dtype("<f4")}

#: A header describes a tensor or two and a few options; parsing one of megabytes would be slow.
_MAX_HEADER_BYTES = 65536


def parse(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file.

    Raises:
        ValueError: If the file is invalid.
    """
    length = int.from_bytes(data[:8], "little")
    if _MAX_HEADER_BYTES < length <= len(data):
        raise ValueError(
            f"not a safetensors file of this API: its header has {length} bytes; at most "
            f"{_MAX_HEADER_BYTES} are allowed"
        )
    try:
        tensors: Any = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(
                f"tensor {name!r} has type {tensor['dtype']}; expected {' or '.join(_DTYPES)}"
            )
        flat = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        arrays[name] = flat.reshape(tensor["shape"])
    # The library takes null for no metadata.
    return arrays, json.loads(data[8 : 8 + length]).get("__metadata__") or {}


def dump(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file of ``arrays`` (uint8 or float32) with ``metadata``."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, dict(metadata))
