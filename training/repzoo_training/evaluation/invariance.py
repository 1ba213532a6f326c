"""Invariance: how close the views of one image are, and what an embedding reveals about colour.

Of N test images, J = 2 views each are embedded, once cropped and mirrored as in the module `style`,
and once with changed colours. With the total variance T of all views (the trace of their
covariance) and the variance W among the views of one image, averaged over images,

    invariance = 1 − W/T,

the intraclass correlation of the embedding: 1 if all views of an image have the same embedding, 0
if they are as far apart as views of different images. W/T is the squared distance between two views
of one image, divided by that between views of two images.

==========================  ====================================================================
``invariance`` of           of crops and mirroring
``style_crop``
``invariance`` of           of brightness, contrast, saturation and hue, for RGB images
``style_colour``
``knn_fit``, ``linear_fit`` mean R² of predicting these four factors of a view from its
of ``style_colour``         embedding, for RGB images
==========================  ====================================================================
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from repzoo_training.evaluation.inputs import default_device
from repzoo_training.evaluation.knn import NEIGHBOURS
from repzoo_training.evaluation.probes import L2
from repzoo_training.evaluation.report import Measure, Protocol
from repzoo_training.evaluation.representation import Representation, represent
from repzoo_training.evaluation.style import (
    MOST_TEST,
    MOST_TRAIN,
    STYLE_VIEWS,
    Floats,
    Pixels,
    explained,
    mean_of_nearest,
    ridge,
    sample_rows,
    style_views,
)
from repzoo_training.views.color import apply_color_maps, color_factors, color_maps

__all__ = ["JITTER", "colour_views", "intraclass_correlation", "measure_invariance"]

#: Strengths of brightness, contrast, saturation and hue of the views with changed colours.
JITTER = (0.4, 0.4, 0.4, 0.1)
FACTORS = ("brightness", "contrast", "saturation", "hue")


def measure_invariance(
    representation: Representation,
    train: Pixels,
    test: Pixels,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> tuple[Measure, ...]:
    """Measure invariance to crops and, for RGB images, to colour, and how well colour is predicted.

    Args:
        representation: the encoder.
        train: images for the training views, uint8 ``[M, H, W, C]``.
        test: images for the test views, uint8 ``[N, H, W, C]``.
        seed: decides which images are used, and their views.
        batch_size: views per call of ``embed``.
        device: where neighbours are computed; by default the GPU if there is one.
        progress: show progress bars on a terminal.
    """
    chosen = test[sample_rows(len(test), MOST_TEST, seed)]

    def embed(views: Pixels) -> NDArray[np.float32]:
        return represent(representation, views, batch_size=batch_size, progress=progress)

    def invariance(task: str, views: NDArray[np.float32], what: str) -> Measure:
        value, influence = intraclass_correlation(views)
        return Measure(
            name="invariance",
            task=task,
            value=value,
            standard_error=float(influence.std() / math.sqrt(len(influence))),
            n=len(influence),
            unit="intraclass correlation",
            protocol={"views": what, "views per image": 2, "seed": seed},
        )

    crops = [embed(style_views(chosen, seed + number)[0]) for number in (1, 2)]
    cropped = f"crop {STYLE_VIEWS.scale[0]:g} to {STYLE_VIEWS.scale[1]:g}, flip 0.5"
    measures = [invariance("style_crop", np.stack(crops, 1), cropped)]
    if test.shape[-1] != 3:
        return tuple(measures)

    (first, truth), (second, _) = (colour_views(chosen, seed + number) for number in (1, 2))
    test_z = embed(first)
    coloured = f"jitter {JITTER}"
    measures.append(invariance("style_colour", np.stack([test_z, embed(second)], 1), coloured))
    views, targets = colour_views(train[sample_rows(len(train), MOST_TRAIN, seed)], seed)
    train_z = embed(views)
    k = min(NEIGHBOURS, len(train_z))
    common: Protocol = {"views": coloured, "train views": len(train_z), "seed": seed}
    place = default_device(device)
    by_neighbours = mean_of_nearest(train_z, targets, test_z, k, place, progress)
    for name, predicted, protocol in (
        ("knn_fit", by_neighbours, {**common, "k": k, "distance": "euclidean"}),
        ("linear_fit", ridge(train_z, targets, test_z), {**common, "l2": L2}),
    ):
        columns = {
            factor: (truth[:, i], predicted[:, i], targets[:, i])
            for i, factor in enumerate(FACTORS)
        }
        measures.append(explained(name, "style_colour", columns, protocol))
    return tuple(measures)


def intraclass_correlation(views: NDArray[np.floating]) -> tuple[float, Floats]:
    """Return 1 − W/T of embeddings ``[N, J, D]`` of J views of N images, and its influences.

    W is the unbiased variance among the J views of an image, and T that of all views, both summed
    over dimensions. To first order, image n moves 1 − W/T by −(w_n − (W/T) t_n)/T. The standard
    deviation of these terms ``[N]`` divided by √N is the standard error.
    """
    z = views.astype(np.float64)
    J = z.shape[1]  # noqa: N806
    w = ((z - z.mean(1, keepdims=True)) ** 2).sum((1, 2)) / (J - 1)  # [N]
    t = ((z - z.mean((0, 1))) ** 2).sum(2).mean(1)  # [N]
    if not t.mean() > 0:  # a constant embedding has no views of different images
        return 0.0, np.zeros_like(t)
    share = w.mean() / t.mean()
    return float(1 - share), -(w - share * t) / t.mean()


def colour_views(images: Pixels, seed: int) -> tuple[Pixels, Floats]:
    """Change the colours of each image.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        seed: decides the changes.

    Returns:
        Views uint8 ``[N, H, W, 3]``, and the factors of brightness, contrast and saturation and
        the shift of the hue in turns, float64 ``[N, 4]``.
    """
    generator = torch.Generator().manual_seed(seed)
    factors = color_factors(torch.rand((4, len(images)), generator=generator), JITTER)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # [N, 3, H, W]
    views = apply_color_maps(x, *color_maps(x, *factors))
    quantised = (255 * views).round().to(torch.uint8).permute(0, 2, 3, 1)
    return quantised.contiguous().numpy(), torch.stack(factors, 1).numpy().astype(np.float64)
