"""Results of operations -> response bodies, in the format that ``Accept`` asks for.

In JSON, arrays are nested lists, and images are base64 PNG files. With ``"encoding_format":
"base64"`` each vector of an array ``[N, D]`` is one string, the base64 of its little-endian float32
numbers; that takes a third of the time and a quarter of the bytes. In safetensors, arrays are
tensors (float32, images uint8 ``[N, H, W, C]``), and everything else is a JSON object in the
metadata's ``response``.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydantic_core
from numpy.typing import NDArray
from PIL import Image

from repzoo_serving.http.problems import Problem
from repzoo_serving.wire import tensors

__all__ = ["JSON_TYPE", "Result", "choose_media_type", "json_vectors"]

JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Result:
    """The result of an operation.

    Args:
        facts: JSON values.
        arrays: One row per image.
        encoding: Format of vectors in JSON, ``"float"`` or ``"base64"``.
        robust: Whether embeddings are content means.
        gaps: The array that may have rows without values. They are NaN, and empty in JSON.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    encoding: str = "float"
    robust: bool = False
    gaps: str | None = None

    def encode(self, media_type: str) -> bytes:
        """Return the response body in a type from `choose_media_type`.

        Raises:
            ValueError: If a number is not finite.
        """
        arrays = {name: self.finite(name) for name in self.arrays}
        if media_type == tensors.SAFETENSORS_TYPE:
            return tensors.dump(arrays, {"response": json.dumps(self.facts)})
        lists = {
            name: [_png(image) for image in array]
            if name == "images"
            else json_vectors(array, self.encoding)
            for name, array in arrays.items()
        }
        if self.gaps is not None:
            for row in np.flatnonzero(np.isnan(arrays[self.gaps]).any(axis=1)):
                lists[self.gaps][row] = type(lists[self.gaps][row])()  # [] or ""
        return pydantic_core.to_json({**self.facts, **lists})

    def finite(self, name: str) -> NDArray[Any]:
        """Return one of the arrays.

        Raises:
            ValueError: If a number is not finite.
        """
        array = self.arrays[name]
        shown = array[~np.isnan(array).all(axis=1)] if name == self.gaps else array
        if array.dtype.kind == "f" and not np.isfinite(shown).all():
            raise ValueError(f"{name} has numbers that are not finite")
        return array


def json_vectors(array: NDArray[Any], encoding: str) -> list[Any]:
    """Return an array ``[N, D]`` or ``[N]`` as JSON values."""
    if encoding == "base64" and array.ndim == 2:
        rows = np.ascontiguousarray(array, "<f4")
        return [base64.b64encode(row).decode() for row in rows]
    values: list[Any] = array.tolist()
    return values


def choose_media_type(accept: str, *, tensors_too: bool) -> str:
    """Return the response's media type for an ``Accept`` header; JSON unless another is preferred.

    Raises:
        Problem: 406 if no offered type is acceptable.
    """
    offers = (JSON_TYPE, tensors.SAFETENSORS_TYPE) if tensors_too else (JSON_TYPE,)
    if not accept:
        return JSON_TYPE
    ranges = [_media_range(part) for part in accept.split(",")]
    # max() returns the first of equals, so JSON wins a tie.
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) == 0:
        raise Problem(
            "not-acceptable",
            f"the response can be {' or '.join(offers)}; Accept asks for {accept}",
        )
    return best


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (p.strip().lower() for p in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return name, quality


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """Return the quality that the most specific matching range gives to an offer."""
    for pattern in (offer, offer.split("/")[0] + "/*", "*/*"):
        for name, quality in ranges:
            if name == pattern:
                return quality
    return 0.0


def _png(image: NDArray[np.uint8]) -> str:
    # Pillow takes grey images without a channel axis.
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
