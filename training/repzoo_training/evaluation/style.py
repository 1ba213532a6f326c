"""Style: how much the embedding of a view reveals about how the view was made.

A representation of content alone would not know where and how strongly an image was cropped, or
whether it was flipped. What it does know is measured on fixed views of the training and test
images, which are the same for every method, whatever views it was trained on.

==================  ============================================================================
``style_position``  centre of the crop, horizontal and vertical, as a share of the image (mirrored
                    if the view is mirrored): mean R²
``style_scale``     logarithm of the crop's share of the image area: R²
``style_flip``      whether the view is mirrored left to right: accuracy
==================  ============================================================================

R² is 1 − Σ (y − ŷ)² / Σ (y − ȳ)² on the test views. Always predicting the mean scores 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repzoo_training.evaluation.inputs import default_device, standardise
from repzoo_training.evaluation.knn import NEIGHBOURS, knn_predict, nearest
from repzoo_training.evaluation.probes import L2, linear_probe
from repzoo_training.evaluation.report import Measure, Protocol
from repzoo_training.evaluation.representation import Representation, represent
from repzoo_training.views.views import Views, ViewSpec

__all__ = [
    "MOST_TEST",
    "MOST_TRAIN",
    "STYLE_VIEWS",
    "explained",
    "mean_of_nearest",
    "measure_style",
    "r_squared",
    "ridge",
    "sample_rows",
    "style_views",
]

#: The views whose style is predicted.
STYLE_VIEWS = ViewSpec(scale=(0.4, 1.0), ratio=(0.75, 4 / 3), horizontal_flip=0.5)
#: Largest number of images from which views are made, one per image.
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
    """Measure each style task by nearest neighbours (``knn_fit``) and linearly (``linear_fit``).

    Args:
        representation: the encoder.
        train: images for the training views, uint8 ``[M, H, W, C]``.
        test: images for the test views, uint8 ``[N, H, W, C]``.
        seed: decides which images are used, and their views.
        batch_size: views per call of ``embed``.
        device: where neighbours and models are computed; by default the GPU if there is one.
        progress: show progress bars on a terminal.
    """
    place = default_device(device)
    (train_x, train_y), (test_x, test_y) = (
        style_views(images[sample_rows(len(images), most, seed)], seed + number)
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
    by_neighbours = mean_of_nearest(train_z, targets, test_z, k, place, progress)
    by_ridge = ridge(train_z, targets, test_z)
    measures = []
    for task, columns in (("style_position", [0, 1]), ("style_scale", [2])):
        for name, predicted, protocol in (
            ("knn_fit", by_neighbours, neighbours),
            ("linear_fit", by_ridge, linear),
        ):
            measures.append(
                explained(
                    name,
                    task,
                    {names[c]: (truth[:, c], predicted[:, c], targets[:, c]) for c in columns},
                    protocol,
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


def explained(
    name: str, task: str, targets: dict[str, tuple[Floats, Floats, Floats]], protocol: Protocol
) -> Measure:
    """Return the mean R² of some targets, each by its name.

    Args:
        name: name of the measure.
        task: name of the task.
        targets: of each target, the truth ``[N]``, the predictions ``[N]`` and the targets of the
            training views ``[M]``, whose mean is the prediction to compare with.
        protocol: how the predictions were made.
    """
    found = {
        each: r_squared(truth, predicted, train.mean())
        for each, (truth, predicted, train) in targets.items()
    }
    scores = np.stack([influence for _, influence in found.values()]).mean(0)  # [N]
    by_class = {each: value for each, (value, _) in found.items()}
    return Measure(
        name=name,
        task=task,
        value=float(np.mean([*by_class.values()])),
        standard_error=float(scores.std() / math.sqrt(len(scores))),
        n=len(scores),
        unit="R²",
        protocol=protocol,
        by_class=by_class if len(by_class) > 1 else None,
    )


def style_views(images: Pixels, seed: int) -> tuple[Pixels, dict[str, Floats]]:
    """Make one view of each image.

    Args:
        images: uint8 ``[N, H, W, C]``.
        seed: decides the views.

    Returns:
        Views uint8 ``[N, H, W, C]``, and the style of each, float64 ``[N]``: ``x`` and ``y`` in
        [0, 1], ``scale`` (log of the share of the area) and ``flip`` (0 or 1).
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
    """Return R² of predictions, and the influence of each image on it.

    R² = 1 − e/t with e = mean (y − ŷ)² and t = mean (y − centre)². To first order, image n moves
    R² by −(e_n − (1 − R²) t_n)/t. The standard deviation of these terms divided by √N is the
    standard error of R².

    Args:
        truth: y, float64 ``[N]``.
        predicted: ŷ, float64 ``[N]``.
        centre: the constant prediction to compare with, the mean of the *training* set.
    """
    e, t = (truth - predicted) ** 2, (truth - centre) ** 2
    if not t.mean() > 0:  # a constant target explains nothing
        return 0.0, np.zeros_like(e)
    value = 1 - e.mean() / t.mean()
    return float(value), -(e - (1 - value) * t) / t.mean()


def ridge(train_z: NDArray[np.floating], targets: Floats, test_z: NDArray[np.floating]) -> Floats:
    """Predict by linear regression that minimises ½ Σ (squared errors) + ½ L2 ‖W‖².

    For standardised inputs X and centred targets Y, W = (XᵀX + L2 I)⁻¹ XᵀY.

    Args:
        train_z: inputs ``[M, D]``.
        targets: float64 ``[M, T]``.
        test_z: inputs ``[N, D]``.

    Returns:
        Predictions float64 ``[N, T]`` for ``test_z``.
    """
    x, query = standardise(train_z, test_z)
    centre = targets.mean(0)
    weight = np.linalg.solve(x.T @ x + L2 * np.eye(x.shape[1]), x.T @ (targets - centre))
    result: Floats = query @ weight + centre
    return result


def mean_of_nearest(
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


def sample_rows(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of a random sample, in the order of the data set."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])
