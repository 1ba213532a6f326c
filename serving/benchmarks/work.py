"""The work of every benchmarked server for a batch: embeddings and uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np
import repzoo
from PIL import Image, ImageOps
from repzoo.packages.config import InputSpec

__all__ = ["fitted", "work"]


def fitted(image: Image.Image, spec: InputSpec) -> np.ndarray[Any, Any]:
    """Return an image at the model's size as most servers make it, uint8 ``[H, W, C]``."""
    upright = ImageOps.exif_transpose(image).convert(spec.mode)
    small = ImageOps.fit(upright, (spec.width, spec.height), Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(spec.shape)


def work(encoder: repzoo.Encoder, pixels: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Return the result of `/embed` for each row of ``pixels``, uint8 ``[N, H, W, C]``."""
    outputs = encoder.outputs(pixels, uncertainty=True, batch_size=len(pixels))
    results = [{"embeddings": [row]} for row in outputs["embedding"].tolist()]
    if "uncertainty" in outputs:
        for result, value in zip(results, outputs["uncertainty"].tolist(), strict=True):
            result["uncertainty"] = [value]
    return results
