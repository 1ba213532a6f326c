"""Calibrated uncertainty: the probability that the nearest neighbour of an embedding is wrong.

>>> from repzoo_training.uncertainty import fit_uncertainty, measure_uncertainty
>>> fitted = fit_uncertainty(encoder, train, augmentation)   # fitted.head becomes uncertainty.onnx
>>> report = measure_uncertainty(encoder, train, test)       # with baselines and intervals
"""

from __future__ import annotations

from repzoo_training.uncertainty.benchmark import UncertaintyReport, measure_uncertainty
from repzoo_training.uncertainty.fitting import FittedUncertainty, fit_uncertainty
from repzoo_training.uncertainty.head import UncertaintyHead
from repzoo_training.uncertainty.questions import is_of_views
from repzoo_training.uncertainty.searches import ViewsReport

__all__ = [
    "FittedUncertainty",
    "UncertaintyHead",
    "UncertaintyReport",
    "ViewsReport",
    "fit_uncertainty",
    "is_of_views",
    "measure_uncertainty",
]
