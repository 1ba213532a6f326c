"""Invariance to views, and what an embedding reveals about colour."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from repzoo_training.data import ImageDataset
from repzoo_training.evaluation import evaluate_dataset
from repzoo_training.evaluation.invariance import colour_views, intraclass_correlation

Floats = NDArray[np.float64]


def test_intraclass_correlation_is_the_share_of_variance_between_images() -> None:
    draws = np.random.default_rng(0)
    images, views = draws.normal(0, 3**0.5, (4000, 1, 5)), draws.normal(0, 1, (4000, 2, 5))
    value, influence = intraclass_correlation(images + views)
    assert value == pytest.approx(0.75, abs=0.01)
    # the standard error of the influences is that of repeated experiments
    repeated = [
        intraclass_correlation(images[rows] + views[rows])[0]
        for rows in (draws.integers(0, 4000, 4000) for _ in range(100))
    ]
    assert influence.std() / 4000**0.5 == pytest.approx(np.std(repeated), rel=0.3)
    assert intraclass_correlation(images.repeat(2, 1))[0] == 1
    assert intraclass_correlation(np.zeros((3, 2, 4)))[0] == 0


def test_colour_views_are_the_images_with_their_factors() -> None:
    grey = np.full((50, 4, 4, 3), 100, np.uint8)
    views, factors = colour_views(grey, seed=3)
    assert factors.shape == (50, 4)
    # Of a uniform grey, only brightness changes anything.
    assert views[:, 0, 0, 0] == pytest.approx(100 * factors[:, 0], abs=0.51)
    again, _ = colour_views(grey, seed=3)
    assert (again == views).all()


class Embedding:
    """The mean of each channel, or the places of the brightest pixels."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = images.astype(np.float32)
        if self.kind == "colour":
            return x.mean((1, 2))
        # luma, which hue and saturation keep
        x = x @ np.array([0.299, 0.587, 0.114], np.float32) if x.shape[3] == 3 else x[..., 0]
        return np.stack([x.argmax(1).mean(1), x.argmax(2).mean(1)], 1)


@pytest.fixture(scope="module")
def photos() -> ImageDataset:
    draws = np.random.default_rng(1)
    images = draws.integers(60, 110, (600, 16, 16, 3)).astype(np.uint8)
    return ImageDataset("photos", images)


def test_colour_and_place(photos: ImageDataset) -> None:
    def measured(kind: str) -> dict[tuple[str | None, str], float]:
        report = evaluate_dataset(
            Embedding(kind), photos, photos, measures=["invariance"], progress=False
        ).report
        return {(m.task, m.name): m.value for m in report.measures}

    colour, place = measured("colour"), measured("place")
    assert set(colour) == {
        ("style_crop", "invariance"),
        ("style_colour", "invariance"),
        ("style_colour", "knn_fit"),
        ("style_colour", "linear_fit"),
    }
    # All images have the same mean colour, so that all differences are the views'.
    assert colour["style_colour", "invariance"] < 0.1
    assert colour["style_colour", "linear_fit"] > 0.2
    assert place["style_colour", "invariance"] > 0.8
    assert place["style_colour", "linear_fit"] < 0.05


def test_grey_images_have_no_colour(photos: ImageDataset) -> None:
    grey = ImageDataset("grey", photos.images[..., :1])
    report = evaluate_dataset(
        Embedding("place"), grey, grey, measures=["invariance"], progress=False
    ).report
    assert [(m.task, m.name) for m in report.measures] == [("style_crop", "invariance")]
