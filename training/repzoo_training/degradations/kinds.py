"""The kinds of degradation, each a function on a batch.

Every kind takes float images x ``[N, C, H, W]`` in [0, 1], a strength s ``[N]`` in [0, 1] for each
image, and a CPU generator; it returns images of the same shape, not yet clipped to [0, 1]. At s = 0
nothing changes; at s = 1 a person can still guess the content, but is no longer sure. The families
follow ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) and MNIST-C (Mu and Gilmer 2019,
arXiv 1906.02337) where possible, scaled to the side of the image.

Changes of position fill uncovered areas with the nearest pixel of the image, so that digits stay
on black and photographs get no black frame.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = ["FIT", "TEST", "VALIDATION", "Degradation"]

Degradation: TypeAlias = Callable[[Tensor, Tensor, Generator], Tensor]


# Kinds that a content posterior is fitted to.


def gaussian_blur(x: Tensor, s: Tensor, _: Generator) -> Tensor:
    """A Gaussian with a standard deviation of up to an eighth of the side."""
    H, W = x.shape[2:]  # noqa: N806
    sigma = (s * max(H, W) / 8).clamp_min(1e-3)[:, None, None]  # [N, 1, 1]
    return _separable(
        x, *(_averages(n, lambda d: torch.exp(-0.5 * (d / sigma) ** 2)) for n in (H, W))
    )


def box_blur(x: Tensor, s: Tensor, _: Generator) -> Tensor:
    """The mean over a square of up to three tenths of the side."""
    H, W = x.shape[2:]  # noqa: N806
    reach = 0.5 + (s * 0.15 * max(H, W))[:, None, None]  # half the square's side, in pixels
    return _separable(
        x, *(_averages(n, lambda d: (reach - d.abs() + 0.5).clamp(0, 1)) for n in (H, W))
    )


def noise(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Gaussian, with a standard deviation of up to half the range."""
    return x + 0.5 * _per_image(s) * torch.randn(x.shape, generator=generator)


def occlusion(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """A black square of up to seven tenths of the side."""
    H, W = x.shape[2:]  # noqa: N806
    rows = _interval(0.7 * s, H, generator)  # [N, H]
    columns = _interval(0.7 * s, W, generator)  # [N, W]
    return x * (1 - rows[:, None, :, None] * columns[:, None, None, :])


def crop(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """A square of at least four tenths of the side, enlarged to the whole image."""
    share = 1 - 0.6 * s
    scale = share[:, None] * torch.ones(2)  # [N, 2]
    offset = (1 - scale) * (2 * torch.rand(len(x), 2, generator=generator) - 1)
    return _warp(x, torch.diag_embed(scale), offset)


def contrast(x: Tensor, s: Tensor, _: Generator) -> Tensor:
    """The image drawn towards its mean, down to 15 % of its contrast."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (1 - 0.85 * _per_image(s)) * (x - mean)


def brightness(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Lighter or darker by up to half the range."""
    sign = 2.0 * torch.randint(0, 2, (len(x),), generator=generator) - 1
    return x + _per_image(0.5 * s * sign)


def shift(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Moved in any direction by up to a quarter of the side."""
    angle = 2 * math.pi * torch.rand(len(x), generator=generator)
    direction = torch.stack([angle.cos(), angle.sin()], 1)  # [N, 2]
    return _warp(x, torch.eye(2).expand(len(x), 2, 2), 0.5 * s[:, None] * direction)


def small_rotation(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Turned to either side by up to 25°."""
    return _rotate(x, 25 * s, generator)


# Kinds that choices are made by.


def pixelation(x: Tensor, s: Tensor, _: Generator) -> Tensor:
    """Averaged in squares, of which at least seven fit on a side."""
    H, W = x.shape[2:]  # noqa: N806

    def cells(size: int) -> Tensor:
        # From two pixels per square to a seventh of the side.
        count = torch.where(s > 0, size / 2 * (2 / 7) ** s, torch.tensor(float(size)))
        pixel = torch.arange(size)
        cell = (pixel[None] * count.round()[:, None] / size).floor()  # [N, size]
        same = (cell[:, :, None] == cell[:, None, :]).float()  # [N, size, size]
        return same / same.sum(2, keepdim=True)

    return _separable(x, cells(H), cells(W))


def shear(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Slanted to either side by up to 0.8 pixels per pixel."""
    sign = 2.0 * torch.randint(0, 2, (len(x),), generator=generator) - 1
    matrix = torch.eye(2).repeat(len(x), 1, 1)
    matrix[:, 0, 1] = 0.8 * s * sign
    return _warp(x, matrix, torch.zeros(len(x), 2))


# Kinds that are reported.


def salt_and_pepper(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Up to three tenths of the pixels black or white."""
    N, _, H, W = x.shape  # noqa: N806
    hit = torch.rand(N, 1, H, W, generator=generator) < 0.3 * _per_image(s)
    color = torch.randint(0, 2, (N, 1, H, W), generator=generator).float()
    return torch.where(hit, color, x)


def stripes(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """White lines across the image, over up to three tenths of it."""
    N, _, H, W = x.shape  # noqa: N806
    y = torch.arange(H)[None, :, None] / H
    period = 1 / (2 + 3 * torch.rand(N, 1, 1, generator=generator))
    phase = torch.rand(N, 1, 1, generator=generator)
    across = torch.rand(N, 1, 1, generator=generator) < 0.5
    x_ = torch.arange(W)[None, None, :] / W
    where = torch.where(across, y.expand(1, H, W), x_.expand(1, H, W))  # [N, H, W]
    covered = ((where / period + phase) % 1) < 0.3 * s[:, None, None]
    return torch.where(covered[:, None], torch.ones(()), x)


def fog(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Bright clouds of all sizes (1/f noise), which replace up to seven tenths of the light."""
    clouds = _clouds(x, generator)
    light = 0.7 * _per_image(s)
    return (1 - light) * x + light * (0.5 + 0.5 * clouds)


def elastic(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Every pixel moved smoothly, by up to an eighth of the side."""
    N, _, H, W = x.shape  # noqa: N806
    coarse = 2 * torch.rand(N, 2, 6, 6, generator=generator) - 1
    moves = F.interpolate(coarse, (H, W), mode="bicubic", align_corners=True)  # [N, 2, H, W]
    grid = _grid(N, H, W) + 0.25 * s[:, None, None, None] * moves.movedim(1, 3)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def spatter(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Grey drops over up to four tenths of the image."""
    N, _, H, W = x.shape  # noqa: N806
    field = torch.randn(N, 1, H, W, generator=generator)
    sigma = torch.full((N, 1, 1), max(1.0, max(H, W) / 24))
    blur = [_averages(n, lambda d: torch.exp(-0.5 * (d / sigma) ** 2)) for n in (H, W)]
    field = _separable(field, *blur).flatten(1)  # [N, H*W]
    rank = field.argsort(1).argsort(1).float() / (H * W)
    drops = (rank > 1 - 0.4 * s[:, None]).view(N, 1, H, W)
    return torch.where(drops, torch.full((), 0.6), x)


def zigzag(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Up to four bright zigzag lines from side to side."""
    N, _, H, W = x.shape  # noqa: N806
    count = 4
    rows = torch.arange(H)[None, None, :, None] / H
    columns = torch.arange(W)[None, None, None, :] / W
    start = torch.rand(N, count, 1, 1, generator=generator)
    slope = torch.rand(N, count, 1, 1, generator=generator) - 0.5
    teeth = 2 + 4 * torch.rand(N, count, 1, 1, generator=generator)
    wave = ((columns * teeth) % 1 - 0.5).abs() * 0.3  # [N, count, 1, W]
    distance = (rows - (start + slope * (columns - 0.5) + wave)).abs() * H
    drawn = (
        torch.arange(1, count + 1)[None, :, None, None] <= (count * s).ceil()[:, None, None, None]
    )
    width = 0.5 + 0.03 * max(H, W) * s[:, None, None, None]
    line = ((distance < width) & drawn).any(1, keepdim=True)  # [N, 1, H, W]
    return torch.where(line, torch.ones(()), x)


def jpeg(x: Tensor, s: Tensor, _: Generator) -> Tensor:
    """Compressed as JPEG, down to a quality of 2 of 100."""
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, 3).numpy()  # [N, H, W, C]
    result = x.clone()
    for number, strength in enumerate(s.tolist()):
        if strength == 0:
            continue
        image = Image.fromarray(pixels[number].squeeze(-1) if x.shape[1] == 1 else pixels[number])
        file = io.BytesIO()
        image.save(file, "JPEG", quality=round(40 - 38 * strength))
        decoded = torch.from_numpy(np.array(Image.open(file))).float() / 255
        result[number] = decoded.view(*x.shape[2:], x.shape[1]).movedim(2, 0)
    return result


def strong_rotation(x: Tensor, s: Tensor, generator: Generator) -> Tensor:
    """Turned to either side by up to 60°."""
    return _rotate(x, 60 * s, generator)


FIT: Mapping[str, Degradation] = {
    "gaussian-blur": gaussian_blur,
    "box-blur": box_blur,
    "noise": noise,
    "occlusion": occlusion,
    "crop": crop,
    "contrast": contrast,
    "brightness": brightness,
    "shift": shift,
    "small-rotation": small_rotation,
}
VALIDATION: Mapping[str, Degradation] = {"pixelation": pixelation, "shear": shear}
TEST: Mapping[str, Degradation] = {
    "salt-and-pepper": salt_and_pepper,
    "stripes": stripes,
    "fog": fog,
    "elastic": elastic,
    "spatter": spatter,
    "zigzag": zigzag,
    "jpeg": jpeg,
    "strong-rotation": strong_rotation,
}


def _per_image(s: Tensor) -> Tensor:
    return s[:, None, None, None]  # [N, 1, 1, 1]


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """R · X · Cᵀ for each image: ``[N, H, H]`` and ``[N, W, W]`` on ``[N, C, H, W]``."""
    return rows[:, None] @ x @ columns[:, None].mT


def _averages(size: int, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """Matrices whose rows average a line by ``weight`` of the distance: ``[N, size, size]``."""
    pixel = torch.arange(size, dtype=torch.float32)
    weights = weight(pixel[None, :, None] - pixel[None, None, :])  # [N, size, size]
    return weights / weights.sum(2, keepdim=True)


def _interval(length: Tensor, size: int, generator: Generator) -> Tensor:
    """A run of ones of ``length`` ``[N]`` (a share of the line) somewhere: ``[N, size]``."""
    pixels = (length * size).round()
    start = (torch.rand(len(length), generator=generator) * (size - pixels + 1)).floor()
    at = torch.arange(size)[None]
    return ((at >= start[:, None]) & (at < (start + pixels)[:, None])).float()


def _grid(N: int, H: int, W: int) -> Tensor:  # noqa: N803
    return F.affine_grid(torch.eye(2, 3).expand(N, 2, 3), [N, 1, H, W], align_corners=False)


def _warp(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Sample x at ``matrix @ position + offset``, with positions in [-1, 1]."""
    theta = torch.cat([matrix, offset[:, :, None]], 2)  # [N, 2, 3]
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _rotate(x: Tensor, degrees: Tensor, generator: Generator) -> Tensor:
    sign = 2.0 * torch.randint(0, 2, (len(x),), generator=generator) - 1
    angle = torch.deg2rad(degrees) * sign
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return _warp(x, matrix, torch.zeros(len(x), 2))


def _clouds(x: Tensor, generator: Generator) -> Tensor:
    """Noise whose amplitude falls as 1/f, one field per image, in [0, 1]: ``[N, 1, H, W]``."""
    N, _, H, W = x.shape  # noqa: N806
    total = torch.zeros(N, 1, H, W)
    cells, weight = 2, 1.0
    while cells < max(H, W):
        octave = torch.rand(N, 1, cells, cells, generator=generator)
        total += weight * F.interpolate(octave, (H, W), mode="bilinear", align_corners=True)
        cells, weight = 2 * cells, weight / 2
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-6)
