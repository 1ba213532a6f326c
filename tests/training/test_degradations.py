"""The three lists of degradations, on real images."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from repzoo_training.data import load
from repzoo_training.degradations import (
    FIT,
    SEVERITIES,
    TEST,
    VALIDATION,
    degrade,
    draw_degraded,
)

DATA = Path(__file__).parents[1] / "data"
KINDS = [*FIT, *VALIDATION, *TEST]


@pytest.fixture(scope="module", params=["mnist", "cifar10"])
def images(request: pytest.FixtureRequest) -> NDArray[np.uint8]:
    return load(str(DATA / request.param), "train", progress=False).images[:64]


def test_the_lists_are_disjoint() -> None:
    assert len({*KINDS}) == len(KINDS)
    assert len({*FIT.values(), *VALIDATION.values(), *TEST.values()}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_changes_more(kind: str, images: NDArray[np.uint8]) -> None:
    changes = []
    for severity in range(SEVERITIES + 1):
        degraded = degrade(images, kind, severity, seed=3)
        assert degraded.shape == images.shape
        assert degraded.dtype == np.uint8
        changes.append(np.square(degraded.astype(float) - images).mean())
    assert changes[0] == 0
    assert all(low < high for low, high in itertools.pairwise(changes))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str, images: NDArray[np.uint8]) -> None:
    first = degrade(images, kind, 4, seed=1)
    torch.rand(3)
    np.testing.assert_array_equal(first, degrade(images, kind, 4, seed=1))
    if kind not in {"gaussian-blur", "box-blur", "contrast", "pixelation", "jpeg"}:
        assert (first != degrade(images, kind, 4, seed=2)).any()


def test_drawn_degradations_differ_between_images(images: NDArray[np.uint8]) -> None:
    drawn = draw_degraded(images, torch.Generator().manual_seed(0))
    again = draw_degraded(images, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(drawn, again)
    changed = (drawn != images).any((1, 2, 3))
    assert changed.mean() > 0.9
    same = np.repeat(images[:1], 64, 0)
    assert len({row.tobytes() for row in draw_degraded(same, torch.Generator())}) > 48


def test_unknown_kinds_and_severities_are_refused(images: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="unknown degradation 'rain'"):
        degrade(images, "rain", 1)
    with pytest.raises(ValueError, match="severity must be 0 to 5, got 6"):
        degrade(images, "fog", 6)
