"""Answers -> bodies, in the format that ``Accept`` chooses.

In JSON, arrays are nested lists and images a list of base64 PNG files; with ``"encoding_format":
"base64"`` each vector of an array ``[N, D]`` is one string, the base64 of its little-endian float32
numbers, which takes a third of the time and a fourth of the bytes. In safetensors, arrays are
tensors (float32, images uint8 ``[N, H, W, C]``) and everything else is one JSON object in the
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

__all__ = ["JSON_TYPE", "Answer", "choose", "vectors"]

JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Answer:
    """What an operation answers: ``facts`` are JSON values, ``arrays`` have one row an image.

    ``encoding`` says how JSON has vectors.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    encoding: str = "float"

    def body(self, media_type: str) -> bytes:
        """The answer in one of the types that `choose` gives.

        Raises:
            ValueError: if a number of it is not finite.
        """
        arrays = {name: self.finite(name) for name in self.arrays}
        if media_type == tensors.SAFETENSORS_TYPE:
            return tensors.dump(arrays, {"response": json.dumps(self.facts)})
        lists = {
            name: _pngs(array) if name == "images" else vectors(array, self.encoding)
            for name, array in arrays.items()
        }
        return pydantic_core.to_json({**self.facts, **lists})

    def finite(self, name: str) -> NDArray[Any]:
        """One of the arrays.

        Raises:
            ValueError: if a number of it is not finite.
        """
        array = self.arrays[name]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        return array


def vectors(array: NDArray[Any], encoding: str) -> list[Any]:
    """``[N, D]``, or ``[N]``, as JSON has it."""
    if encoding == "base64" and array.ndim == 2:
        rows = np.ascontiguousarray(array, "<f4")
        return [base64.b64encode(row).decode() for row in rows]
    values: list[Any] = array.tolist()
    return values


def choose(accept: str, *, tensors_too: bool) -> str:
    """The media type of the answer for an ``Accept`` header: JSON unless safetensors is preferred.

    Raises:
        Problem: 406 if neither is acceptable.
    """
    offers = (JSON_TYPE, tensors.SAFETENSORS_TYPE) if tensors_too else (JSON_TYPE,)
    if not accept:
        return JSON_TYPE
    ranges = [_media_range(part) for part in accept.split(",")]
    # max() keeps the first of equals, so JSON wins a tie.
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) == 0:
        raise Problem(
            "not-acceptable", f"the answer can be {' or '.join(offers)}; Accept asks for {accept}"
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
    """The quality that the most specific matching range gives to an offer."""
    for pattern in (offer, offer.split("/")[0] + "/*", "*/*"):
        for name, quality in ranges:
            if name == pattern:
                return quality
    return 0.0


def _pngs(images: NDArray[np.uint8]) -> list[str]:
    return [_png(image) for image in images]


def _png(image: NDArray[np.uint8]) -> str:
    # Pillow takes grey images without a channel axis.
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
