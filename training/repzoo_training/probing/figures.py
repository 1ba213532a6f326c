"""Draw the confusion matrix of a probe. Import this module lazily: matplotlib takes a second."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from repzoo_training.watching.plots import STYLE, png

__all__ = ["confusion_figure"]

#: With more classes, cells have no numbers, and rows and columns no names.
_NUMBERED, _NAMED = 20, 60
#: The labels of a multi-label task that are drawn, and how many in a row.
_LABELS, _COLUMNS = 40, 5
_LONGEST = 24


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix as a PNG: the darker, the larger the share of the actual class.

    Args:
        confusion: ``[K, K]``, actual classes in rows and predicted ones in columns; or
            ``[A, 2, 2]``, one matrix per label.
        classes: the K classes or A labels.
    """
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in classes]
    with mpl.rc_context(STYLE):
        if confusion.ndim == 2:
            side = min(3.0 + 0.35 * len(names), 16.0)
            figure = Figure(figsize=(side + 0.5, side), layout="constrained")
            _draw(figure.subplots(), confusion, names)
        else:
            names = names[:_LABELS]
            height = math.ceil(len(names) / _COLUMNS)
            figure = Figure(figsize=(11, 2.3 * height), layout="constrained")
            axes = figure.subplots(height, _COLUMNS, squeeze=False).flat
            for axis, name, matrix in zip(axes, names, confusion, strict=False):
                _draw(axis, matrix, ["no", "yes"])
                axis.set_title(name)
            for axis in [*figure.axes][len(names) :]:
                axis.axis("off")
        figure.supxlabel("predicted", fontsize=9)
        figure.supylabel("actual", fontsize=9)
        return png(figure)


def _draw(axis: Axes, confusion: NDArray[np.int64], names: Sequence[str]) -> None:
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.grid(visible=False)
    named = range(len(names)) if len(names) <= _NAMED else []
    shown = names if len(names) <= _NAMED else []
    axis.set_xticks(named, shown, rotation=90 if len(names) > 2 else 0)
    axis.set_yticks(named, shown)
    if len(names) > _NUMBERED:
        return
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            colour = "white" if share[row, column] > 0.5 else "#333333"
            axis.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
