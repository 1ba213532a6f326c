"""Draw one image in five steps of degradation: its content posterior and its neighbours."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from repzoo.runtime.encoder import Encoder

from repzoo_training.content.benchmark import MOST_DOCUMENTS, choose, locate, single_task
from repzoo_training.content.measures import Located, rank
from repzoo_training.data import ImageDataset
from repzoo_training.degradations import SEVERITIES, degrade
from repzoo_training.watching.plots import STYLE, png

__all__ = ["steps_figure"]

#: Dimensions that are drawn, those with the largest variance in the gallery.
_DRAWN = 10
_NEIGHBOURS = 5
#: Images of which the first with most right neighbours is drawn.
_CANDIDATES = 50
_RIGHT, _WRONG = "#2e8b6f", "#d32f2f"


def steps_figure(
    encoder: Encoder,
    train: ImageDataset,
    test: ImageDataset,
    kind: str = "noise",
    *,
    seed: int = 0,
) -> bytes:
    """Draw an image at severities 0 to 5 of a degradation, as a PNG.

    Each row shows the image, its content posterior, and its five nearest training images by the
    embedding and by the content posterior, with a red frame if the label differs. The image is the
    first of a random order whose undegraded version has most right neighbours by both.

    Args:
        encoder: A package with a content posterior.
        train: Labelled images, of which up to 20,000 are the gallery.
        test: Labelled images.
        kind: Name of the degradation.
        seed: Decides the choice of images and the degradation.
    """
    task = single_task(train, test)
    random = np.random.default_rng([seed, 8])
    documents, shown = choose(task.train, task.train_rows, MOST_DOCUMENTS, random)
    queries, labels = choose(task.test, task.test_rows, _CANDIDATES, random)
    gallery = locate(encoder, train.images[documents])
    columns = {"nearest by the embedding": "euclidean", "by the content posterior": "robust"}
    found = rank(locate(encoder, test.images[queries]), gallery)
    nearest = np.hstack([found[metric][:, :_NEIGHBOURS] for metric in columns.values()])
    chosen = int(np.argmax((shown[nearest] == labels[:, None]).sum(1)))
    image = test.images[queries[chosen]][None]
    steps = np.concatenate([degrade(image, kind, level, seed) for level in range(SEVERITIES + 1)])
    posterior = locate(encoder, steps)
    orders = rank(posterior, gallery)
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(10, 0.8 * len(steps) + 0.3),
            layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.96)),
        )
        widths = [1, 3.2, *[1] * _NEIGHBOURS, 0.3, *[1] * _NEIGHBOURS]
        grid = figure.subplots(
            len(steps), len(widths), squeeze=False, width_ratios=widths, sharex="col"
        )
        for step, axes in enumerate(grid):
            _picture(axes[0], steps[step])
            axes[0].set_ylabel(str(step) if step else "clean", rotation=0, labelpad=18)
            _posterior(axes[1], posterior, gallery, step)
            axes[2 + _NEIGHBOURS].axis("off")
            for first, name in zip((2, 3 + _NEIGHBOURS), columns.values(), strict=True):
                for place, row in enumerate(orders[name][step, :_NEIGHBOURS]):
                    color = _RIGHT if shown[row] == labels[chosen] else _WRONG
                    _picture(axes[first + place], train.images[documents[row]], color)
        left, right = columns
        titles = {1: "content posterior, ± 2 sd", 2: left, 3 + _NEIGHBOURS: right}
        for column, title in titles.items():
            # Text that is wider than its column must not widen it.
            at = {"x": 0, "y": 1.08, "transform": grid[0, column].transAxes}
            grid[0, column].text(s=title, weight="bold", fontsize=8, **at).set_in_layout(False)
        figure.supylabel(f"severity of {kind}", fontsize=9)
        return png(figure)


def _picture(axis: Axes, pixels: NDArray[np.uint8], color: str | None = None) -> None:
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(color is not None)
        spine.set_color(color or "none")
        spine.set_linewidth(2.5)


def _posterior(axis: Axes, posterior: Located, gallery: Located, step: int) -> None:
    """Draw mean and spread in standard deviations of the gallery, and the clean mean as a line."""
    center, spread = gallery.embedding.mean(0), gallery.embedding.std(0).clip(1e-6)
    dims = np.sort(np.argsort(-spread)[:_DRAWN])
    mean = ((posterior.mean - center) / spread)[:, dims]
    width = 2 * np.sqrt(posterior.variance[step])[dims] / spread[dims]
    places = np.arange(len(dims))
    axis.bar(places, 2 * width, 0.7, bottom=mean[step] - width, color="#1f5fa8", alpha=0.35)
    axis.hlines(mean[step], places - 0.35, places + 0.35, color="#1f5fa8")
    axis.plot(places, mean[0], linestyle="", marker="x", markersize=4, color="#444444")
    axis.set_ylim(-4.5, 4.5)
    axis.set_xticks([])
    axis.set_yticks([-3, 0, 3])
    axis.tick_params(labelsize=6)
