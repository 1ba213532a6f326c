"""Plot an uncertainty: risk over coverage, reliability, and the effect of corruptions."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repzoo_training.uncertainty.corruptions import LEVELS
from repzoo_training.uncertainty.report import BASELINES, UncertaintyReport
from repzoo_training.watching.plots import STYLE, png

__all__ = ["uncertainty_figure"]

_QUIET = "#888888"


def uncertainty_figure(report: UncertaintyReport) -> bytes:
    """Plot risk over coverage of all scores, and the reliability and rise of the uncertainty."""
    own = report.score("uncertainty") is not None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.5 if own else 4.6, 3.6), layout="constrained")
        (axes,) = figure.subplots(1, 3 if own else 1, squeeze=False)
        _risk(axes[0], report)
        if own:
            _reliability(axes[1], report)
            _rise(axes[2], report)
        return png(figure)


def _risk(axis: Axes, report: UncertaintyReport) -> None:
    coverage = np.linspace(0, 100, 101)
    oracle = np.clip(1 - (1 - report.wrong) / np.maximum(coverage / 100, 1e-9), 0, None)
    axis.plot(coverage, 100 * oracle, color=_QUIET, linestyle=":", label="oracle")
    for name, risks in report.risk_coverage.items():
        gallery = BASELINES[name][1]
        label = f"{name} (needs the gallery)" if gallery else name
        wide = 2.6 if name == "uncertainty" else 1.2
        colour = "black" if name == "ratio" else None
        axis.plot(
            coverage[1:],
            100 * np.array(risks[1:]),
            label=label,
            linewidth=wide,
            color=colour,
            linestyle="--" if gallery else "-",
        )
    axis.set_title("wrong among answered queries, %")
    axis.set_xlabel("answered queries, %, most certain first")
    axis.set_ylim(0, 100 * report.wrong * 1.6)
    axis.legend()


def _reliability(axis: Axes, report: UncertaintyReport) -> None:
    predicted, seen = np.array(report.reliability).T
    most = max(predicted.max(), seen.max()) * 1.05
    axis.plot([0, most], [0, most], color=_QUIET, linestyle=":")
    axis.plot(predicted, seen, marker="o", markersize=4)
    axis.set_title("calibration on test images")
    axis.set_xlabel("mean uncertainty of a fifteenth of the images")
    axis.set_ylabel("share of wrong neighbours")


def _rise(axis: Axes, report: UncertaintyReport) -> None:
    colours = [f"C{i}" for i in range(len(report.corruptions))]
    for (kind, curve), colour in zip(report.corruptions.items(), colours, strict=True):
        assert curve.uncertainty is not None
        axis.plot(curve.uncertainty, marker="o", markersize=4, label=kind, color=colour)
        axis.plot(curve.wrong, linestyle=":", linewidth=1, color=colour)
    axis.set_title("uncertainty (dotted: wrong)")
    axis.set_xlabel(f"level of corruption, 0 to {LEVELS}")
    axis.set_ylim(0, 1)
    axis.legend()
