"""Degradations of images, in three disjoint lists: for fitting, for choosing, and for reporting.

Real queries are blurred, cropped, noisy, badly lit. A content posterior is fitted to the kinds of
`FIT`; everything about it (approach, head, metric, recalibration) is chosen by the kinds of
`VALIDATION`; and the kinds of `TEST` are for the numbers that are reported, once.
"""

from __future__ import annotations

from repzoo_training.degradations.drawing import (
    SEVERITIES,
    degrade,
    degrade_at_random,
    draw_degraded,
)
from repzoo_training.degradations.kinds import FIT, TEST, VALIDATION, Degradation

__all__ = [
    "FIT",
    "SEVERITIES",
    "TEST",
    "VALIDATION",
    "Degradation",
    "degrade",
    "degrade_at_random",
    "draw_degraded",
]
