"""Safetensors in memory: named arrays, and JSON in the metadata.

The library checks the file (offsets, overlaps, sizes); the metadata it does not return is read
from the header, which begins with its length as eight little-endian bytes.
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

#: The types that the wire knows, by their names in a safetensors header.
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "F32": np.dtype("<f4")}


def parse(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays of a safetensors file, and its metadata.

    Raises:
        ValueError: saying what is wrong with the file.
    """
    try:
        tensors: Any = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(
                f"tensor {name!r} is of type {tensor['dtype']}; only {' and '.join(_DTYPES)} are "
                f"known here"
            )
        flat = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        arrays[name] = flat.reshape(tensor["shape"])
    return arrays, header.get("__metadata__", {})


def dump(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """The safetensors file of ``arrays``, uint8 and float32, with ``metadata``."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, dict(metadata))
