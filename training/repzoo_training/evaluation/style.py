"""Style: what the embedding of a view tells about how the view was made.

A representation of content alone would know nothing of where an image was cropped and how much,
and whether it was flipped. What it does know is measured on views of the train and test images that
are the same for every method, whatever views it was trained on.

==================  ============================================================================
``style_position``  centre of the crop, horizontal and vertical, as a share of the image, which is
                    mirrored where the view is: mean R²
``style_scale``     logarithm of the crop's share of the image's area: R²
``style_flip``      whether the view is mirrored left to right: accuracy
==================  ============================================================================

R² is 1 − Σ (y − ŷ)² / Σ (y − ȳ)² on the test views: 0 for who always says the mean.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repzoo_training.evaluation.inputs import default_device
from repzoo_training.evaluation.knn import NEIGHBOURS, knn_predict, nearest
from repzoo_training.evaluation.probes import L2, linear_probe
from repzoo_training.evaluation.report import Measure, Protocol
from repzoo_training.evaluation.representation import Representation, represent
from repzoo_training.views.views import Views, ViewSpec

__all__ = ["STYLE_VIEWS", "measure_style", "r_squared", "ridge", "style_views"]

#: The views of which the style is to be told.
STYLE_VIEWS = ViewSpec(scale=(0.4, 1.0), ratio=(0.75, 4 / 3), horizontal_flip=0.5)
#: Images of which a view is made, at most.
MOST_TRAIN = 10_000
MOST_TEST = 2_000

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


def measure_style(
    representation: Representation,
    train: Pixels,
    test: Pixels,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> tuple[Measure, ...]:
    """Each style task by nearest neighbours, ``knn_fit``, and by a linear model, ``linear_fit``.

    Args:
        representation: what embeds the views.
        train: uint8 ``[M, H, W, C]``, what views to learn from are made of.
        test: uint8 ``[N, H, W, C]``.
        seed: of the choice of images and of their views.
        batch_size: views that are embedded at a time.
        device: where neighbours and models are computed; None for the GPU if there is one.
        progress: show bars, on a terminal only.
    """
    place = default_device(device)
    (train_x, train_y), (test_x, test_y) = (
        style_views(images[_choose(len(images), most, seed)], seed + number)
        for number, (images, most) in enumerate(((train, MOST_TRAIN), (test, MOST_TEST)))
    )
    train_z, test_z = (
        represent(representation, x, batch_size=batch_size, progress=progress)
        for x in (train_x, test_x)
    )
    common: Protocol = {
        "views": f"crop {STYLE_VIEWS.scale[0]:g} to {STYLE_VIEWS.scale[1]:g}, flip 0.5",
        "train views": len(train_x),
        "seed": seed,
    }
    neighbours = {**common, "k": NEIGHBOURS, "distance": "euclidean"}
    linear = {**common, "inputs": "standardised", "l2": L2}
    names = ("x", "y", "scale")
    targets, truth = (np.stack([y[name] for name in names], 1) for y in (train_y, test_y))
    k = min(NEIGHBOURS, len(train_z))
    by_neighbours = _mean_of_nearest(train_z, targets, test_z, k, place, progress)
    by_ridge = ridge(train_z, targets, test_z)
    measures = []
    for task, columns in (("style_position", [0, 1]), ("style_scale", [2])):
        for name, predicted, protocol in (
            ("knn_fit", by_neighbours, neighbours),
            ("linear_fit", by_ridge, linear),
        ):
            found = [r_squared(truth[:, c], predicted[:, c], targets[:, c].mean()) for c in columns]
            scores = np.stack([influence for _, influence in found]).mean(0)  # [N]
            by_class = {names[c]: value for c, (value, _) in zip(columns, found, strict=True)}
            measures.append(
                Measure(
                    name=name,
                    task=task,
                    value=float(np.mean([value for value, _ in found])),
                    standard_error=float(scores.std() / math.sqrt(len(scores))),
                    n=len(scores),
                    unit="R²",
                    protocol=protocol,
                    by_class=by_class if len(columns) > 1 else None,
                )
            )
    flipped = train_y["flip"].astype(np.int64)
    nearest_guess = knn_predict(train_z, flipped, test_z, k=k, device=place, progress=progress)
    head = linear_probe(
        train_z, flipped, task="style_flip", classes=("as it is", "mirrored"), device=place
    )
    guesses = {
        "knn_fit": (nearest_guess, neighbours),
        "linear_fit": (head.predict(test_z), linear),
    }
    for name, (guess, protocol) in guesses.items():
        right = (guess == test_y["flip"]).astype(np.float64)
        measures.append(
            Measure.of_scores(name, right, unit="accuracy", protocol=protocol, task="style_flip")
        )
    return tuple(measures)


def style_views(images: Pixels, seed: int) -> tuple[Pixels, dict[str, Floats]]:
    """A view of each image, and what there is to tell about it.

    Args:
        images: uint8 ``[N, H, W, C]``.
        seed: of the views.

    Returns:
        Views uint8 ``[N, H, W, C]``; and float64 ``[N]`` each, ``x`` and ``y`` in [0, 1],
        ``scale`` (log of the share of the area) and ``flip`` (0 or 1).
    """
    _, H, W, _ = images.shape  # noqa: N806
    make = Views(STYLE_VIEWS, (H, W))
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    views, drawn = make.draw(pixels, 1, generator)  # [N, 1, C, H, W]
    box = [part[:, 0].numpy().astype(np.float64) for part in drawn]
    top, height, left, width, flip, _ = box
    known = {
        "x": np.where(flip > 0, 1 - (left + width / 2) / W, (left + width / 2) / W),
        "y": (top + height / 2) / H,
        "scale": np.log(height * width / (H * W)),
        "flip": flip,
    }
    quantised = (255 * views[:, 0]).round().to(torch.uint8).permute(0, 2, 3, 1)
    return quantised.contiguous().numpy(), known


def r_squared(truth: Floats, predicted: Floats, centre: float) -> tuple[float, Floats]:
    """R² of predictions ``[N]``, and how much each pulls at it, ``[N]``.

    R² = 1 − e/t with e = mean (y − ŷ)² and t = mean (y − centre)². To first order, an image moves
    it by −(e_n − (1 − R²) t_n)/t, the standard deviation of which over √N is its standard error.

    Args:
        truth: y.
        predicted: ŷ.
        centre: what is said without looking, the mean of the *train* set.
    """
    e, t = (truth - predicted) ** 2, (truth - centre) ** 2
    if not t.mean() > 0:  # nothing varies, so there is nothing to tell
        return 0.0, np.zeros_like(e)
    value = 1 - e.mean() / t.mean()
    return float(value), -(e - (1 - value) * t) / t.mean()


def ridge(train_z: NDArray[np.floating], targets: Floats, test_z: NDArray[np.floating]) -> Floats:
    """Linear regression of ``targets [M, T]`` with ½ L2 ‖W‖² beside ½ the summed squares.

    Standardised inputs X and centred targets Y have W = (XᵀX + L2 I)⁻¹ XᵀY.

    Returns:
        Predictions float64 ``[N, T]`` for ``test_z``.
    """
    x, query = np.asarray(train_z, np.float64), np.asarray(test_z, np.float64)
    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
    x, query = (x - mean) / std, (query - mean) / std
    centre = targets.mean(0)
    weight = np.linalg.solve(x.T @ x + L2 * np.eye(x.shape[1]), x.T @ (targets - centre))
    result: Floats = query @ weight + centre
    return result


def _mean_of_nearest(
    train_z: NDArray[np.float32],
    targets: Floats,
    test_z: NDArray[np.float32],
    k: int,
    device: torch.device,
    progress: bool,
) -> Floats:
    z, query = (torch.from_numpy(each).to(device) for each in (train_z, test_z))
    values = torch.from_numpy(targets)
    found: list[Tensor] = [
        values[rows.cpu()].mean(1)  # [n, T]
        for rows in nearest(z, query, k=k, distance="euclidean", progress=progress)
    ]
    result: Floats = torch.cat(found).numpy()
    return result


def _choose(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Rows of a sample, in the order of the data set."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])
