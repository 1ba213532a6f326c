"""What every server of the benchmark does with a batch: embed it, and say how sure that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import repzoo

__all__ = ["work"]


def work(encoder: repzoo.Encoder, pixels: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """What `/embed` answers for each of the rows of ``pixels``, uint8 ``[N, H, W, C]``."""
    outputs = encoder.outputs(pixels, uncertainty=True, batch_size=len(pixels))
    answers = [{"embeddings": [row]} for row in outputs["embedding"].tolist()]
    if "uncertainty" in outputs:
        for answer, value in zip(answers, outputs["uncertainty"].tolist(), strict=True):
            answer["uncertainty"] = [value]
    return answers
