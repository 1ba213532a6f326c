"""Filters on documents, as Milvus expressions.

A document has the fields ``id``, ``uncertainty`` and ``metadata``; expressions refer to a key of
the metadata as ``metadata["label"]``. Pass values from untrusted sources in a mapping, which is
quoted. A string is sent to Milvus unchanged, so never build one from untrusted text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from repzoo_client.retrieval.errors import InvalidFilter

__all__ = ["Filter", "filter_expression", "literal"]

#: Keys of the metadata with the values that they must all have, or a Milvus expression.
Filter: TypeAlias = Mapping[str, str | int | float | bool] | str

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def filter_expression(given: Filter | None, max_uncertainty: float | None = None) -> str:
    """Return one expression for both arguments; "" matches everything.

    Raises:
        InvalidFilter: If a value has no literal in Milvus, for example None or NaN.
    """
    parts = []
    if isinstance(given, str):
        parts += [f"({given})"] if given.strip() else []
    elif given is not None:
        parts += [f"metadata[{literal(key)}] == {literal(value)}" for key, value in given.items()]
    if max_uncertainty is not None:
        # Uncertainties are stored as float32, so the limit is rounded too: 0.1 must include 0.1.
        parts.append(f"uncertainty <= {float(np.float32(max_uncertainty))!r}")
    return " and ".join(parts)


def literal(value: object) -> str:
    """Return a value as Milvus writes it in an expression.

    Raises:
        InvalidFilter: If the value has no literal, for example None or NaN.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        if not value.isascii() and not _is_text(value):
            raise InvalidFilter(f"{value!r} is not valid Unicode, so no document can contain it")
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise InvalidFilter(f"a filter cannot use {value!r}; expected str, bool, int or finite float")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
