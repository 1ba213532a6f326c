"""The work of every benchmarked server for a batch: embeddings and uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np
import repzoo

__all__ = ["work"]


def work(encoder: repzoo.Encoder, pixels: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Return the result of `/embed` for each row of ``pixels``, uint8 ``[N, H, W, C]``."""
    outputs = encoder.outputs(pixels, uncertainty=True, batch_size=len(pixels))
    results = [{"embeddings": [row]} for row in outputs["embedding"].tolist()]
    if "uncertainty" in outputs:
        for result, value in zip(results, outputs["uncertainty"].tolist(), strict=True):
            result["uncertainty"] = [value]
    return results
