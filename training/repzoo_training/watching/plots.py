"""Plots with axes, drawn by matplotlib. Import this module lazily: it takes a second to load."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

__all__ = ["collapse_figure", "curves_figure", "png"]

#: The common style of all plots.
STYLE: Any = {
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.labelcolor": "#444444",
    "axes.prop_cycle": cycler(color=["#1f5fa8", "#d1682a", "#2e8b6f", "#8a4fa3", "#777777"]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}
_ALARM = "#c62828"
_MARGINS = {
    "left": 0.07,
    "right": 0.98,
    "top": 0.9,
    "bottom": 0.08,
    "wspace": 0.16,
    "hspace": 0.18,
}


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file with a palette, a third of the size."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(128).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


#: Columns of ``metrics.jsonl`` that are not terms of the loss, or that ``collapse.png`` shows.
_NOT_TERMS = {
    *("step", "views", "loss", "learning_rate", "views_per_second", "wall_seconds"),
    *("spectrum", "rankme", "effective_rank", "embedding_entropy", "correlation", "std_min"),
    *("std_mean", "spread", "signal", "suspect", "collapsed"),
}


def curves_figure(lines: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Plot the loss, its terms, the learning rate and the speed over views, as a PNG.

    Args:
        lines: The lines of ``metrics.jsonl``; at least one.
        title: The name of the run.
    """
    terms = [name for name in lines[0] if name not in _NOT_TERMS]
    names = ["loss", *terms, "learning_rate", "views_per_second"]
    columns = 2 if len(names) <= 4 else 3
    height = math.ceil(len(names) / columns)
    views = np.array([line["views"] for line in lines], float)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 0.6 + 2.1 * height), layout="constrained")
        grid = figure.subplots(height, columns, sharex=True, squeeze=False)
        for axis, name in zip(grid.flat, names, strict=False):
            values = np.array([line.get(name, np.nan) for line in lines], float)
            axis.plot(views, values, marker="o" if len(views) == 1 else None)
            axis.set_title(name.replace("_", " "))
            axis.margins(x=0.02)
        for axis in list(grid.flat)[len(names) :]:
            axis.axis("off")
        for axis in grid[-1]:
            axis.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        figure.supxlabel("views", fontsize=9)
        last = lines[-1]
        figure.suptitle(
            f"{title}: loss {last['loss']:.4g} at {last['views']:,} views",
            fontsize=11,
            x=0.01,
            ha="left",
        )
        return png(figure)


def collapse_figure(lines: Sequence[Mapping[str, Any]], dim: int, title: str) -> bytes:
    """Plot the statistics of :mod:`repzoo_training.watching.collapse` over views, as a PNG.

    Args:
        lines: The lines of ``metrics.jsonl`` that have a ``spectrum``; at least one.
        dim: D, the dimension of the embeddings.
        title: The name of the run.
    """
    views = np.array([line["views"] for line in lines], float)
    values = {
        name: np.array([line[name] for line in lines], float)
        for name in (
            *("rankme", "effective_rank", "embedding_entropy", "correlation"),
            *("std_min", "std_mean", "spread", "signal"),
        )
    }
    spectra = np.array([line["spectrum"] for line in lines], float)  # [T, min(N, D)]
    collapsed = np.array([line["collapsed"] for line in lines], bool)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 6.2))  # computing the margins would double the time
        axes = figure.subplots(2, 2, sharex=True, gridspec_kw=_MARGINS)
        _spectrum(axes[0, 0], views, spectra)
        rank = axes[0, 1]
        rank.plot(views, values["rankme"], label="RankMe")
        rank.plot(views, values["effective_rank"], label="effective rank, mean removed")
        most = min(dim, spectra.shape[1])
        rank.axhline(most, color="#888888", linewidth=1, linestyle=":")
        rank.set_ylim(0, 1.08 * most)
        rank.set_title(f"used dimensions, of {dim}")
        deviation = axes[1, 0]
        deviation.plot(views, values["std_mean"], label="mean over dimensions")
        deviation.plot(views, values["std_min"], label="minimum")
        _log_if_positive(deviation, values["std_min"])
        deviation.set_title("standard deviation of a dimension")
        share = axes[1, 1]
        share.plot(views, values["correlation"], label="mean |correlation|")
        share.plot(views, values["spread"], label="spread")
        if (values["signal"] < 1).any():
            share.plot(views, values["signal"], label="signal")
        share.set_ylim(-0.02, 1.02)
        share.set_title("correlated dimensions, distances between images")
        for axis in axes.flat:
            _shade(axis, views, collapsed)
            axis.margins(x=0.02)
        for axis in axes[1]:
            axis.set_xlabel("views")
            axis.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        for axis in (rank, deviation, share):
            axis.legend(loc="best")
        state = "collapsed" if collapsed[-1] else "not collapsed"
        figure.suptitle(
            f"{title}: {state} at {lines[-1]['views']:,} views, "
            f"embedding entropy {values['embedding_entropy'][-1]:.1f} nats",
            color=_ALARM if collapsed[-1] else "#222222",
            fontsize=11,
            x=0.07,
            ha="left",
        )
        return png(figure)


def _spectrum(axis: Axes, views: NDArray[Any], spectra: NDArray[Any]) -> None:
    """Draw one line per singular value, from dark for the largest to light for the smallest."""
    count = spectra.shape[1]
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, count))
    floor = max(1e-12, 1e-9 * spectra.max())  # a logarithmic axis cannot show zeros
    axis.set_prop_cycle(color=colours)
    axis.plot(
        views,
        np.maximum(spectra, floor),
        linewidth=1.8 if count <= 32 else 0.7,
        marker="o" if len(views) == 1 else None,
        markersize=3,
    )
    axis.set_yscale("log")
    axis.set_title(f"{count} singular values of the covariance")


def _log_if_positive(axis: Axes, values: NDArray[Any]) -> None:
    if (values > 0).all():
        axis.set_yscale("log")


def _shade(axis: Axes, views: NDArray[Any], collapsed: NDArray[Any]) -> None:
    """Shade the periods in which the run was collapsed."""
    for i in np.flatnonzero(collapsed):
        left = views[i - 1] if i else views[i]
        axis.axvspan(left, views[i], color=_ALARM, alpha=0.12, linewidth=0)
