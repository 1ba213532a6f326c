"""Filters on documents, as Milvus expressions.

A document has the fields ``id``, ``uncertainty`` and ``metadata``, whose keys are written
``metadata["label"]``. Values that come from elsewhere belong in a mapping, which is quoted; an
expression in a string goes to Milvus as it is: never build one from what somebody else typed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from repzoo_client.retrieval.errors import InvalidFilter

__all__ = ["Filter", "filter_expression"]

#: Keys of the metadata and what they must equal, all of them; or a Milvus expression.
Filter: TypeAlias = Mapping[str, str | int | float | bool] | str

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def filter_expression(given: Filter | None, max_uncertainty: float | None = None) -> str:
    """One expression for all; "" lets everything through.

    Raises:
        InvalidFilter: for a value that has no literal, such as None or NaN.
    """
    parts = []
    if isinstance(given, str):
        parts += [f"({given})"] if given.strip() else []
    elif given is not None:
        parts += [f"metadata[{_literal(key)}] == {_literal(value)}" for key, value in given.items()]
    if max_uncertainty is not None:
        # Stored as float32, so that is what it is compared as: 0.1 lets 0.1 through.
        parts.append(f"uncertainty <= {float(np.float32(max_uncertainty))!r}")
    return " and ".join(parts)


def _literal(value: object) -> str:
    if isinstance(value, str):
        if not value.isascii() and not _is_text(value):
            raise InvalidFilter(f"{value!r} has halves of characters: it cannot be in any document")
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise InvalidFilter(f"{value!r} cannot be filtered by; expected str, bool, int or finite float")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
