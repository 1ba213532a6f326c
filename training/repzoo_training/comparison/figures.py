"""Plot a comparison: accuracy, content against style, reconstructions, spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from repzoo_training.comparison.rows import Board, Estimate, Row
from repzoo_training.objectives import Family, find_method
from repzoo_training.watching.plots import STYLE, png

__all__ = [
    "STYLE_AXES",
    "Strip",
    "attributes_figure",
    "collapse_figure",
    "content_figure",
    "content_style_figure",
    "reconstructions_figure",
    "style_tasks",
]

COLOURS: dict[Family, str] = {
    "generative": "#1f5fa8",
    "contrastive": "#d1682a",
    "self-distillation": "#2e8b6f",
    "information maximisation": "#8a4fa3",
    "predictive": "#b0892c",
    "clustering": "#4aa3b8",
    "lower bound": "#888888",
}
#: Measures of the content of an image. The first that was measured is plotted against style.
CONTENT = ("mlp", "linear", "knn")
#: Measures of style, with the label of their axis.
STYLE_AXES = {
    "style_position linear_fit": "style: position of the crop, R²",
    "style_scale linear_fit": "style: scale of the crop, R²",
    "style_flip linear_fit": "style: mirrored or not, accuracy in %",
    "style_colour linear_fit": "style: changed colours, R²",
    "hair-colour mlp": "hair colour: MLP accuracy, %",  # the paper's example of style
}
_INK = "#222222"
_PAPER = "#c62828"


@dataclass(frozen=True)
class Strip:
    """One row of `reconstructions_figure`.

    Attributes:
        label: name of the row.
        note: a second line in small print.
        images: float32 ``[K, H, W, C]`` in [0, 1].
    """

    label: str
    note: str
    images: NDArray[np.float32]


def content_figure(board: Board) -> bytes | None:
    """Plot the k-NN accuracy of each method as a bar, best first, with the paper's numbers.

    k-NN uses the distance of the method's family. Returns None if no row has k-NN.
    """
    rows = [(row, found) for row in board.rows if (found := _score(row, "knn")) is not None]
    if not rows:
        return None
    rows.sort(key=lambda pair: -pair[1].value)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.3 + 0.34 * len(rows)), layout="constrained")
        axis = figure.subplots()
        places = np.arange(len(rows))[::-1]
        scores = [100 * found.value for _, found in rows]
        errors = [100 * found.error for _, found in rows]
        axis.barh(
            places,
            scores,
            xerr=errors,
            height=0.66,
            color=[_colour(row) for row, _ in rows],
            error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 2},
        )
        papers = []
        for place, score, error, (row, _) in zip(places, scores, errors, rows, strict=True):
            paper = next((p for p in row.published if (p.source, p.task) == ("paper", "knn")), None)
            right = score + error
            if paper is not None:
                papers.append(paper.value)
                # Drawn above the bar, so that it does not hide the end of the bar.
                axis.plot(paper.value, place, "d", color=_PAPER, markersize=6, markeredgecolor="w")
                if 0 <= paper.value - right < 8:
                    right = paper.value + 0.8
            axis.text(right + 1, place, f"{score:.1f}", va="center", fontsize=8, color=_INK)
        axis.set_yticks(places, [row.label for row, _ in rows])
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        axis.set_xlim(0, min(107, max([*scores, *papers]) * 1.1 + 4))
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set_xlabel("k-NN accuracy, %")
        axis.set_title(f"{board.dataset}: k nearest neighbours in the frozen representation")
        handles: list[Any] = _families(row for row, _ in rows)
        if papers:
            handles.append(
                Line2D([], [], marker="d", color=_PAPER, linestyle="", label="SimVAE paper")
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
        return png(figure)


def style_tasks(board: Board) -> list[str]:
    """Return the names of the style measures that the board has."""
    return [name for name in STYLE_AXES if any(name in row.estimates for row in board.rows)]


def content_style_figure(board: Board) -> bytes | None:
    """Plot content against style, one dot per method and one panel per style task.

    It follows Figure 3 of arXiv 2402.01399: methods at the top right keep both. Returns None if
    content or style was not measured.
    """
    tasks = style_tasks(board)
    probe = next((p for p in CONTENT if any(_score(row, p) for row in board.rows)), None)
    if not tasks or probe is None:
        return None
    columns = min(3, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(4.4 * columns, 0.6 + 3.7 * lines),
            layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08),
        )
        grid = figure.subplots(lines, columns, squeeze=False)
        for axis, task in zip(grid.flat, tasks, strict=False):
            _content_style(axis, board.rows, probe, task)
        for axis in grid.flat[len(tasks) :]:
            axis.set_visible(False)
        figure.suptitle(
            f"{board.dataset}: content and style kept by the representation",
            fontsize=11,
            color=_INK,
        )
        handles = _families(board.rows)
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return png(figure)


def attributes_figure(board: Board) -> bytes | None:
    """Plot by attribute what the MLP probe of each method gains over the most common answer.

    It follows Figure 6 of arXiv 2402.01399. Returns None if no attributes were measured.
    """
    gains = {row.label: _gains(row) for row in board.rows}
    names = next(iter(gains.values()), {})
    if not names or any(each.keys() != names.keys() for each in gains.values()):
        return None
    order = sorted(names, key=lambda name: float(np.mean([each[name] for each in gains.values()])))
    places = np.arange(len(order))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.6 + 0.27 * len(order)), layout="constrained")
        axis = figure.subplots()
        for row, mark in zip(board.rows, _marks(board.rows), strict=True):
            axis.plot(
                [100 * gains[row.label][name] for name in order],
                places,
                mark,
                color=_colour(row),
                markersize=6,
                markeredgecolor="w",
                label=row.label,
            )
        axis.axvline(0, color="#888888", linewidth=1, linestyle=":")
        axis.set_yticks(places, [name.replace("_", " ") for name in order])
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(-0.7, len(order) - 0.3)
        axis.set_xlabel("accuracy of the MLP probe above the most common answer, points")
        axis.set_title(f"{board.dataset}: what each representation tells about each attribute")
        figure.legend(loc="outside lower center", ncols=4)
        return png(figure)


def _marks(rows: Sequence[Row]) -> list[str]:
    """Return a marker per row: rows of one family, which share a colour, differ in it."""
    marks = "osD^v<>PXph*"
    families = [find_method(row.method).family for row in rows]
    return [marks[families[:i].count(each) % len(marks)] for i, each in enumerate(families)]


def _gains(row: Row) -> dict[str, float]:
    """Return by attribute the accuracy of the MLP probe above the majority, mean of the seeds."""
    of_seeds = []
    for run in row.runs:
        mlp, majority = (run.report.measure(name, "attributes") for name in ("mlp", "majority"))
        if mlp is None or majority is None or not mlp.by_class or not majority.by_class:
            return {}
        base = majority.by_class
        of_seeds.append({name: value - base[name] for name, value in mlp.by_class.items()})
    return {name: float(np.mean([gains[name] for gains in of_seeds])) for name in of_seeds[0]}


def collapse_figure(board: Board) -> bytes | None:
    """Plot spectrum and effective rank of each method, or return None if none was recorded."""
    rows = [row for row in board.rows if all("spectrum" in run.collapse for run in row.runs)]
    if not rows:
        return None
    dim = max(row.first.report.dim for row in rows)
    with mpl.rc_context(STYLE):
        height = max(3.6, 1.3 + 0.34 * len(rows))
        figure = Figure(figsize=(10.4, height), layout="constrained")
        spectrum, ranks = figure.subplots(1, 2, width_ratios=(1, 1.1))
        for row, mark in zip(rows, _marks(rows), strict=True):
            values = np.array(row.first.collapse["spectrum"], float)
            share = np.maximum(values / max(values.sum(), 1e-30), 1e-9)
            spectrum.plot(
                np.arange(1, len(share) + 1),
                share,
                color=_colour(row),
                marker=mark if len(share) <= 32 else None,
                markersize=4,
                linewidth=1.2,
                alpha=0.9,
                label=row.label,
            )
        spectrum.set_yscale("log")
        spectrum.set_xlabel("principal direction")
        spectrum.set_title("share of the variance")
        spectrum.legend(fontsize=7, ncols=2 if len(rows) > 8 else 1, loc="lower left")

        rows.sort(key=lambda row: -row.average(lambda run: run.collapse["effective_rank"]))
        places = np.arange(len(rows))[::-1]
        effective = [row.average(lambda run: run.collapse["effective_rank"]) for row in rows]
        rankme = [row.average(lambda run: run.collapse["rankme"]) for row in rows]
        ranks.barh(places, effective, height=0.66, color=[_colour(row) for row in rows])
        ranks.plot(rankme, places, "|", color=_INK, markersize=11, markeredgewidth=1.6)
        for place, value, other, row in zip(places, effective, rankme, rows, strict=True):
            text = f"{value:.1f}" + ("  collapsed" if row.collapsed else "")
            colour = _PAPER if row.collapsed else _INK
            right = max(value, other) + 0.02 * dim
            ranks.text(right, place, text, va="center", fontsize=8, color=colour)
        ranks.set_yticks(places, [row.label for row in rows])
        ranks.tick_params(axis="y", length=0)
        ranks.grid(visible=False, axis="y")
        ranks.axvline(dim, color="#888888", linewidth=1, linestyle=":")
        ranks.set_xlim(0, 1.12 * dim)
        ranks.set_xlabel(f"dimensions, of {dim}")
        ranks.set_title("effective rank (line: RankMe, which includes the mean)")
        figure.suptitle(f"{board.dataset}: dimensions used by each method", color=_INK)
        return png(figure)


def reconstructions_figure(strips: Sequence[Strip], title: str) -> bytes:
    """Plot rows of the same images: the originals, then their reconstructions by each method."""
    count, height, width = strips[0].images.shape[:3]
    cell = 0.62
    row_height = cell * height / width
    label_width = 0.3 + 0.075 * max(len(text) for s in strips for text in (s.label, s.note))
    head = 0.4
    size = (label_width + cell * count, head + (row_height + 0.05) * len(strips))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        figure.text(0.12 / size[0], 1 - 0.24 / size[1], title, fontsize=10, weight="bold")
        for index, strip in enumerate(strips):
            top = head + index * (row_height + 0.05)
            bottom = 1 - (top + row_height) / size[1]
            axis = figure.add_axes(
                (label_width / size[0], bottom, cell * count / size[0], row_height / size[1])
            )
            joined = np.concatenate(list(strip.images), axis=1)  # [H, K*W, C]
            axis.imshow(
                joined.squeeze(-1) if joined.shape[2] == 1 else joined,
                cmap="gray",
                vmin=0,
                vmax=1,
                aspect="auto",
                interpolation="nearest",
            )
            axis.set_axis_off()
            middle = bottom + 0.5 * row_height / size[1]
            left = (label_width - 0.1) / size[0]
            shift = 0.07 / size[1] if strip.note else 0
            figure.text(
                left, middle + shift, strip.label, ha="right", va="center", fontsize=9, color=_INK
            )
            figure.text(
                left,
                middle - 1.3 * shift,
                strip.note,
                ha="right",
                va="center",
                fontsize=7,
                color="#777777",
            )
        return png(figure)


def _content_style(axis: Axes, rows: Sequence[Row], probe: str, task: str) -> None:
    points = [
        (row, content, row.estimates[task])
        for row in rows
        if (content := _score(row, probe)) is not None and task in row.estimates
    ]
    xs = [100 * content.value for _, content, _ in points]
    accuracy = any(style.accuracy for *_, style in points)
    scale = 100 if accuracy else 1
    ys = [scale * style.value for *_, style in points]
    for (row, content, style), x, y in zip(points, xs, ys, strict=True):
        axis.errorbar(
            x,
            y,
            xerr=100 * content.error,
            yerr=scale * style.error,
            fmt="o",
            color=_colour(row),
            markersize=6,
            elinewidth=1,
            ecolor=(*mpl.colors.to_rgb(_colour(row)), 0.45),
        )
    axis.margins(0.14)
    if task.startswith("style_"):
        chance = 50 if accuracy else 0
        axis.axhline(chance, color="#888888", linewidth=1, linestyle=":")
    _label(
        axis,
        [
            _Named(row.label, _colour(row), x, y, 100 * content.error, scale * style.error)
            for (row, content, style), x, y in zip(points, xs, ys, strict=True)
        ],
    )
    axis.set_xlabel(f"content: {'MLP' if probe == 'mlp' else probe} accuracy, %")
    axis.set_ylabel(STYLE_AXES[task])


class _Named(NamedTuple):
    """The name, colour, position and error bars of a dot."""

    name: str
    colour: str
    x: float
    y: float
    dx: float
    dy: float


def _label(axis: Axes, points: Sequence[_Named]) -> None:
    """Write names next to their dots, each where it overlaps least."""
    axis.autoscale_view()
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    wide_axis, tall_axis = right - left, high - low
    # In units of the panel: a letter is about 1/60 of its width, a line 1/22 of its height.
    spots = [((p.x - left) / wide_axis, (p.y - low) / tall_axis) for p in points]
    taken = []
    for (u, v), p in zip(spots, points, strict=True):
        du, dv = p.dx / wide_axis, p.dy / tall_axis
        taken += [
            (u - 0.012, u + 0.012, v - 0.02, v + 0.02),
            (u - du, u + du, v - 0.004, v + 0.004),
            (u - 0.003, u + 0.003, v - dv, v + dv),
        ]
    for (u, v), (name, colour, x, y, _, _) in zip(spots, points, strict=True):
        wide, tall = 0.0185 * len(name), 0.045
        best = (math.inf, 0.0, 0.0, "left")
        for du, dv, side in _AROUND:
            start = u + du if side == "left" else u + du - wide
            if side == "center":
                start = u + du - wide / 2
            box = (start, start + wide, v + dv - tall / 2, v + dv + tall / 2)
            outside = max(0, -box[0]) + max(0, box[1] - 1) + max(0, -box[2]) + max(0, box[3] - 1)
            cost = sum(_overlap(box, other) for other in taken) + outside
            cost += 1e-4 * math.hypot(du, dv)
            if cost < best[0]:
                best, chosen = (cost, du, dv, side), box
        taken.append(chosen)
        _, du, dv, side = best
        axis.text(
            x + du * wide_axis,
            y + dv * tall_axis,
            name,
            ha=side,
            va="center",
            fontsize=7.5,
            color=colour,
        )


#: Offsets of a name from its dot, in units of the panel, with its alignment.
_AROUND = [
    (du * reach, dv * reach, side)
    for reach in (1.0, 1.9)
    for du, dv, side in (
        (0.022, 0.0, "left"),
        (-0.022, 0.0, "right"),
        (0.0, 0.05, "center"),
        (0.0, -0.05, "center"),
        (0.018, 0.035, "left"),
        (0.018, -0.035, "left"),
        (-0.018, 0.035, "right"),
        (-0.018, -0.035, "right"),
    )
]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the area shared by two boxes (left, right, low, high)."""
    wide = min(a[1], b[1]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[2], b[2])
    return wide * tall if wide > 0 and tall > 0 else 0.0


def _score(row: Row, probe: str) -> Estimate | None:
    """Return an estimate by name, for k-NN the one by the method's own distance."""
    if probe == "knn":
        probe = f"knn_{find_method(row.method).metric}"
    return row.estimates.get(probe)


def _colour(row: Row) -> str:
    return COLOURS[find_method(row.method).family]


def _families(rows: Any) -> list[Any]:
    there = {find_method(row.method).family for row in rows}
    return [Patch(color=COLOURS[family], label=family) for family in COLOURS if family in there]
