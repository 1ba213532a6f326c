"""Fréchet distances between a model's images and real ones, in the features of a network."""

from __future__ import annotations

from repzoo_training.evaluation.fid.features import CNNFeatures, Features, InceptionFeatures
from repzoo_training.evaluation.fid.measure import measure_fid

__all__ = ["CNNFeatures", "Features", "InceptionFeatures", "measure_fid"]
