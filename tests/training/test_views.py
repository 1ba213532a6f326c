"""Views: comparison with Pillow and torchvision, on real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv
from PIL import Image
from pydantic import ValidationError
from repzoo_training.data import load
from repzoo_training.views import color, views
from repzoo_training.views.views import Views, ViewSpec, resize_matrix
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
    """Each view equals the result of the resize matrices of its box."""
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


def test_a_share_of_the_views_is_whole() -> None:
    images = cifar(64)
    make = Views(ViewSpec(scale=(0.4, 0.6), crop_probability=0.75), (32, 32))
    whole = (make(images, 16, generator()) == images[:, None].float() / 255).flatten(2).all(2)
    assert 0.2 < whole.float().mean() < 0.3  # [64, 16]


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
    ("name", "theirs", "factor"),
    [
        ("brightness", tv.adjust_brightness, 1.7),
        ("brightness", tv.adjust_brightness, 0.3),
        ("contrast", tv.adjust_contrast, 1.6),
        ("contrast", tv.adjust_contrast, 0.2),
        ("saturation", tv.adjust_saturation, 1.8),
        ("saturation", tv.adjust_saturation, 0.0),
    ],
)
def test_colour_operations_are_torchvisions(
    name: str, theirs: Callable[[Tensor, float], Tensor], factor: float
) -> None:
    x = cifar(8).float() / 255
    ours = colored(x, **{name: factor})
    torch.testing.assert_close(ours, theirs(x, factor), atol=2e-3, rtol=1e-3)


def colored(x: Tensor, **factors: float) -> Tensor:
    names = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | factors
    values = {name: torch.full((len(x),), value) for name, value in names.items()}
    matrix, offset = color.color_maps(x, **values)
    return (matrix @ x.flatten(2) + offset).view(x.shape).clamp(0, 1)


def test_a_turn_of_hue_keeps_luma_and_greys_and_is_turns_hsvs() -> None:
    x = cifar(8).float() / 255 * 0.5 + 0.25  # nothing is clipped
    luma = torch.tensor(color.YIQ[0])
    for turn in (-0.2, 0.05, 0.5):
        turned = colored(x, hue=turn)
        torch.testing.assert_close(
            (turned.movedim(1, -1) @ luma), (x.movedim(1, -1) @ luma), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(colored(x, hue=1.0), x, atol=1e-5, rtol=0)
    grey = x.mean(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(colored(grey, hue=0.3), grey, atol=1e-5, rtol=0)
    # The hue in HSV rotates by about the same angle, if a pixel has a hue.
    strong = x.amax(1) - x.amin(1) > 0.1
    turned = (hsv_hue(colored(x, hue=0.05)) - hsv_hue(x))[strong]
    assert abs(((turned + 0.5) % 1 - 0.5).mean() - 0.05) < 0.01


def hsv_hue(x: Tensor) -> Tensor:
    """Return the hue in [0, 1) of float RGB images ``[N, 3, H, W]``, as defined by matplotlib."""
    return torch.from_numpy(rgb_to_hsv(x.movedim(1, -1).numpy())[..., 0])


def test_all_four_changes_are_one_map() -> None:
    x = cifar(8).float() / 255 * 0.2 + 0.4  # nothing is clipped
    together = colored(x, brightness=1.1, contrast=0.8, saturation=1.3, hue=0.1)
    one = colored(colored(x, brightness=1.1), contrast=0.8)
    torch.testing.assert_close(together, colored(colored(one, saturation=1.3), hue=0.1))


def test_a_share_of_the_views_is_grey() -> None:
    views = Views(ViewSpec(greyscale=0.25), (32, 32))(cifar(64), 16, generator())
    grey = views.amax(2).sub(views.amin(2)).amax((2, 3)) < 1e-5  # [B, J]
    assert 0.2 < grey.float().mean() < 0.3
    untouched = cifar(64).float()[:, None].div(255).expand_as(views)
    torch.testing.assert_close(views[~grey], untouched[~grey], atol=1e-5, rtol=0)


def test_every_image_is_jittered_by_its_own_factors() -> None:
    x = cifar(1).float().div(255).expand(16, 3, 32, 32)
    jittered = color.color_jitter(x, (0.8, 0.8, 0.8, 0.2), generator())
    assert jittered.min() >= 0
    assert jittered.max() <= 1
    assert len({round(image.mean().item(), 6) for image in jittered}) == 16


def test_grey_images_cannot_be_jittered() -> None:
    with pytest.raises(ValueError, match="RGB"):
        color.color_jitter(torch.rand(2, 1, 8, 8), (0.8, 0.8, 0.8, 0.2), generator())


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (-1.0, 0.5)},
        {"scale": (0.5, 2.0)},
        {"scale": (1.0, 0.5)},
        {"ratio": (0.0, 1.0)},
        {"ratio": (-1.0, 1.0)},
        {"ratio": (1.0, float("inf"))},
        {"jitter": (-0.1, 0.0, 0.0, 0.0)},
    ],
)
def test_impossible_views_are_refused(settings: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError):
        ViewSpec(**settings)  # type: ignore[arg-type]


def test_large_images_need_no_table_of_all_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table for 224 × 224 pixels would take 10 GB."""
    spec = ViewSpec(scale=(0.4, 1.0), ratio=(0.75, 1.3))
    with_table = Views(spec, (32, 32))(cifar(3), 4, generator())
    monkeypatch.setattr(views, "_TABLE_SIZE", 0)
    assert torch.equal(Views(spec, (32, 32))(cifar(3), 4, generator()), with_table)
    monkeypatch.undo()
    large = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    assert Views(spec, (224, 224))(large, 2, generator()).shape == (1, 2, 3, 224, 224)


def test_a_share_of_the_views_is_degraded() -> None:
    images = cifar(64)
    before = images.clone()
    make = Views(ViewSpec(degraded=0.5), (32, 32))
    made = make(images, 4, generator())
    assert torch.equal(images, before)
    assert 0 <= made.min() <= made.max() <= 1
    assert torch.equal(made, make(images, 4, generator()))
    changed = (made != images[:, None].float() / 255).flatten(2).any(2)  # [64, 4]
    assert 0.35 < changed.float().mean() < 0.65
    assert not torch.equal(changed[:, 0], changed[:, 1])
