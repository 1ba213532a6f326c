"""Plot a content posterior: the precision lost to degradations, and how much of it is recovered."""

from __future__ import annotations

import math

import matplotlib as mpl
from matplotlib.figure import Figure

from repzoo_training.content.report import ContentReport
from repzoo_training.degradations import SEVERITIES
from repzoo_training.watching.plots import STYLE, png

__all__ = ["content_figure"]

_COLUMNS = 5
_LABELS = {"euclidean": "embedding", "mean": "content mean"}


def content_figure(report: ContentReport) -> bytes:
    """Plot precision@10 over severity for each kind of degradation, as a PNG."""
    clean = report.rows[0]
    kinds = [each for each in report.kinds() if each[0] != "clean"]
    height = math.ceil(len(kinds) / _COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 1.9 * height), layout="constrained")
        grid = figure.subplots(height, _COLUMNS, sharex=True, sharey=True, squeeze=False)
        axes = list(grid.flat)
        for axis, (group, kind, rows) in zip(axes, kinds, strict=False):
            for name, label in _LABELS.items():
                values = [clean.precision[name], *(row.precision[name] for row in rows)]
                axis.plot(range(SEVERITIES + 1), values, marker="o", markersize=3, label=label)
            axis.set_title(f"{kind}" + {"fit": "", "validation": " ○", "test": " ●"}[group])
            axis.set_ylim(0, 100)
        for axis in axes[len(kinds) :]:
            axis.axis("off")
        first = figure.axes[0]
        first.legend(loc="best")
        figure.supylabel("precision@10, %", fontsize=9)
        figure.supxlabel(
            "severity    (○ used for choices, ● only reported, the others fitted)", fontsize=9
        )
        return png(figure)
