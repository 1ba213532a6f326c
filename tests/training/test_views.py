"""Views against Pillow and torchvision, on real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from repzoo_training import color
from repzoo_training.data import load
from repzoo_training.views import Views, ViewSpec, resize_matrix
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

DATA = Path(__file__).parents[1] / "data"


def cifar(n: int) -> Tensor:
    """Real images, uint8 ``[n, 3, 32, 32]``."""
    images = load(str(DATA / "cifar10"), "train", progress=False).images[:n]
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("top", "height", "left", "width"),
    [(0, 32, 0, 32), (3, 17, 9, 23), (31, 1, 0, 1), (5, 26, 2, 29)],
)
def test_crop_and_resize_is_pillows_within_one_grey_level(
    top: int, height: int, left: int, width: int
) -> None:
    pixels = cifar(1)[0]
    ours = resize_matrix(top, height, 32) @ pixels.float() @ resize_matrix(left, width, 32).T
    crop = Image.fromarray(pixels.permute(1, 2, 0).numpy()).crop(
        (left, top, left + width, top + height)
    )
    pillow = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(ours.permute(1, 2, 0).numpy() - pillow).max() <= 1.0


def test_every_view_is_a_crop_of_its_own_image() -> None:
    """Each view equals, for one box, what the resize matrices of that box give."""
    spec = ViewSpec(scale=(0.4, 1.0), ratio=(0.75, 1.3))
    images = cifar(3)
    make_views = Views(spec, (32, 32))
    views = make_views(images, 4, generator())
    assert views.shape == (3, 4, 3, 32, 32)
    top, height, left, width = make_views._boxes((3, 4), generator())
    for b in range(3):
        for j in range(4):
            rows = resize_matrix(int(top[b, j]), int(height[b, j]), 32)
            columns = resize_matrix(int(left[b, j]), int(width[b, j]), 32)
            expected = rows @ (images[b].float() / 255) @ columns.T
            torch.testing.assert_close(views[b, j], expected)


def test_boxes_have_the_areas_and_ratios_asked_for() -> None:
    spec = ViewSpec(scale=(0.4, 1.0), ratio=(0.75, 1.3))
    top, height, left, width = Views(spec, (28, 28))._boxes((100, 200), generator())
    share = (height * width / 28**2).flatten().float()
    assert 0.36 < share.min() < 0.43  # whole pixels move it a little
    assert share.max() <= 1
    ratio = (width / height).flatten().float()
    assert 0.7 < ratio.min() < 0.8
    assert 1.2 < ratio.max() < 1.4
    assert ((top >= 0) & (top + height <= 28) & (left >= 0) & (left + width <= 28)).all()
    assert (height == 28).any()
    assert {int(t) for t in top.unique()} >= {0, 5, 10}


@pytest.mark.parametrize(("field", "dim"), [("horizontal_flip", -1), ("vertical_flip", -2)])
def test_half_of_the_views_are_flipped(field: str, dim: int) -> None:
    images = cifar(100)
    views = Views(ViewSpec(**{field: 0.5}), (32, 32))(images, 4, generator())  # type: ignore[arg-type]
    plain = images[:, None].float() / 255
    flipped = (views == plain.flip(dim)).flatten(2).all(2)
    kept = (views == plain).flatten(2).all(2)
    assert (flipped | kept).all()
    assert 0.4 < flipped.float().mean() < 0.6


def test_without_changes_every_view_is_the_image() -> None:
    images = cifar(2)
    views = Views(ViewSpec(), (32, 32))(images, 2, generator())
    torch.testing.assert_close(views, (images[:, None].float() / 255).expand(2, 2, 3, 32, 32))


def test_binarised_views_are_binary_and_thresholded_at_a_half() -> None:
    images = cifar(2)
    views = Views(ViewSpec(binarize=0.5), (32, 32))(images, 2, generator())
    assert views.unique().tolist() == [0, 1]
    torch.testing.assert_close(views[:, 0], (images >= 128).float())


def test_views_depend_on_the_generator_alone() -> None:
    spec = ViewSpec(scale=(0.5, 1.0), horizontal_flip=0.5, jitter=(0.8, 0.8, 0.8, 0.2))
    make_views = Views(spec, (32, 32))
    first = make_views(cifar(4), 3, generator(7))
    torch.rand(3)
    assert torch.equal(first, make_views(cifar(4), 3, generator(7)))
    assert not torch.equal(first, make_views(cifar(4), 3, generator(8)))


@pytest.mark.parametrize(
    ("ours", "theirs", "factor"),
    [
        (color.adjust_brightness, tv.adjust_brightness, 1.7),
        (color.adjust_brightness, tv.adjust_brightness, 0.3),
        (color.adjust_contrast, tv.adjust_contrast, 1.6),
        (color.adjust_contrast, tv.adjust_contrast, 0.2),
        (color.adjust_saturation, tv.adjust_saturation, 1.8),
        (color.adjust_saturation, tv.adjust_saturation, 0.0),
        (color.adjust_hue, tv.adjust_hue, 0.2),
        (color.adjust_hue, tv.adjust_hue, -0.13),
    ],
)
def test_colour_operations_are_torchvisions(
    ours: Callable[[Tensor, Tensor], Tensor],
    theirs: Callable[[Tensor, float], Tensor],
    factor: float,
) -> None:
    x = cifar(8).float() / 255
    factors = torch.full((8, 1, 1, 1), factor)
    torch.testing.assert_close(ours(x, factors), theirs(x, factor), atol=1e-5, rtol=1e-4)


def test_every_image_is_jittered_by_its_own_factors() -> None:
    x = cifar(1).float().div(255).expand(16, 3, 32, 32)
    jittered = color.color_jitter(x, (0.8, 0.8, 0.8, 0.2), generator())
    assert jittered.min() >= 0
    assert jittered.max() <= 1
    assert len({round(image.mean().item(), 6) for image in jittered}) == 16


def test_grey_images_cannot_be_jittered() -> None:
    with pytest.raises(ValueError, match="RGB"):
        color.color_jitter(torch.rand(2, 1, 8, 8), (0.8, 0.8, 0.8, 0.2), generator())
