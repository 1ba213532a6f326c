"""Compute the uncertainty of an encoder for images, and simpler scores to compare it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder

from repzoo_training.evaluation.knn import nearest
from repzoo_training.uncertainty.examples import apart
from repzoo_training.uncertainty.questions import Question
from repzoo_training.uncertainty.report import NEIGHBOURS

__all__ = ["Scored", "Scorer"]

Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scored:
    """All scores of N images under one encoder and one gallery.

    Attributes:
        scores: float64 ``[N]`` by name, in the order of ``BASELINES``. A high score means unsure.
        embedding: float32 ``[N, D]``.
        neighbours: rows of the gallery, nearest first, int64 ``[N, NEIGHBOURS]``.
    """

    scores: dict[str, Floats]
    embedding: NDArray[np.float32]
    neighbours: NDArray[np.int64]


class Scorer:
    """Scores images under one encoder and one gallery."""

    def __init__(self, encoder: Encoder, question: Question) -> None:
        self._encoder = encoder
        #: float32 ``[M, D]``.
        self.gallery = encoder.embed(question.gallery)
        self._shows = question.shows
        self._of_labels = question.of_labels

    def score(self, images: Pixels) -> Scored:
        """Return the scores of images uint8 ``[N, H, W, C]``."""
        encoder, config = self._encoder, self._encoder.config
        outputs = encoder.outputs(images)
        embedding = outputs["embedding"]
        found: dict[str, NDArray[np.floating]] = {}
        if config.uncertainty is not None:
            found["uncertainty"] = encoder.uncertainty_of(outputs, images)
        if config.has_posterior:
            found["variance"] = outputs["log_variance"].mean(1)
        found["norm"] = -np.linalg.norm(embedding, axis=1)
        if config.has_decoder:
            found["reconstruction"] = encoder.reconstruct(images).error
        gallery, query = torch.from_numpy(self.gallery), torch.from_numpy(embedding)
        chunks = nearest(gallery, query, k=NEIGHBOURS, distance=config.metric, progress=False)
        neighbours = torch.cat(list(chunks)).numpy()
        found["distance"] = apart(embedding, self.gallery[neighbours[:, 0]], config.metric)
        if self._of_labels:
            votes = self._shows[neighbours]  # [N, k]
            found["vote"] = (votes != votes[:, :1]).mean(1)
        else:  # every gallery entry shows another image, so there is nothing to vote on
            second = apart(embedding, self.gallery[neighbours[:, 1]], config.metric)
            found["ratio"] = found["distance"] / np.maximum(second, 1e-9)
        scores = {name: np.asarray(values, np.float64) for name, values in found.items()}
        return Scored(scores, embedding, neighbours)
