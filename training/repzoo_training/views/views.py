"""Views of images, made in batches as tensors on the device.

An axis-aligned crop and resize is linear and separable: the view is ``R_h · X · R_wᵀ``. There are
few boxes of whole pixels, so all resize matrices stand in one table, and a batch of views is a
look-up and two batched matrix products. Nothing waits for Python per image.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from repzoo_training.views.color import color_jitter

__all__ = ["Drawn", "ViewSpec", "Views", "resize_matrix"]

Probability = Annotated[float, Field(ge=0, le=1)]


class ViewSpec(BaseModel):
    """What a view may change. The defaults change nothing.

    ``scale`` is the range of the crop's share of the area and ``ratio`` that of its aspect ratio
    (log-uniform), as in torchvision's RandomResizedCrop; ``jitter`` holds the strengths of
    brightness, contrast, saturation and hue, and ``greyscale`` is the probability that a view has
    no colour. ``binarize`` is a threshold, applied last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    horizontal_flip: Probability = 0.0
    vertical_flip: Probability = 0.0
    jitter: tuple[float, float, float, float] | None = None
    jitter_probability: Probability = 0.8
    greyscale: Probability = 0.0
    binarize: Probability | None = None

    def finish(self, x: Tensor) -> Tensor:
        """The deterministic last step, of views and of whole images alike: ``x`` in [0, 1]."""
        if self.binarize is not None:
            return (x >= self.binarize).to(torch.float32)
        return x.clamp(0, 1).contiguous()


class Drawn(NamedTuple):
    """What was drawn for each view, ``[B, J]`` each: its box in whole pixels, and its flips."""

    top: Tensor
    height: Tensor
    left: Tensor
    width: Tensor
    horizontal_flip: Tensor
    vertical_flip: Tensor


class Views:
    """Makes J random views of each image of a batch.

    Args:
        spec: what a view may change.
        size: ``(H, W)`` of the images, and of their views.
        device: where the images are.
    """

    def __init__(
        self, spec: ViewSpec, size: tuple[int, int], device: torch.device | str = "cpu"
    ) -> None:
        self.spec = spec
        self.size = size
        height, width = size
        self._rows = _resize_table(height).to(device)  # [H, H, H, H]
        self._columns = self._rows if width == height else _resize_table(width).to(device)

    def __call__(self, images: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """Images uint8 ``[B, C, H, W]`` -> views float32 ``[B, J, C, H, W]`` in [0, 1]."""
        return self.draw(images, views, generator)[0]

    def draw(self, images: Tensor, views: int, generator: torch.Generator) -> tuple[Tensor, Drawn]:
        """The same views, and which box and flips made them."""
        spec = self.spec
        B, C, H, W = images.shape  # noqa: N806
        J = views  # noqa: N806
        x = images.to(torch.float32).div_(255)
        if spec.scale != (1.0, 1.0) or spec.ratio != (1.0, 1.0):
            box = self._boxes((B, J), generator)  # [B, J] each
            top, height, left, width = box
            rows = self._rows[height - 1, top]  # [B, J, H, H]
            columns = self._columns[width - 1, left]  # [B, J, W, W]
            x = rows.flatten(1, 2)[:, None] @ x  # [B, C, J*H, W]
            x = x.unflatten(2, (J, H)) @ columns[:, None].mT  # [B, C, J, H, W]
            x = x.transpose(1, 2)  # [B, J, C, H, W]
        else:
            zero = images.new_zeros((B, J), dtype=torch.int64)
            box = zero, zero + H, zero, zero + W
            x = x[:, None].expand(B, J, C, H, W)
        flips = []
        for dim, probability in ((-1, spec.horizontal_flip), (-2, spec.vertical_flip)):
            if probability:
                chosen = self._uniform((B, J, 1, 1, 1), generator) < probability
                x = torch.where(chosen, x.flip(dim), x)
                flips.append(chosen.view(B, J))
            else:
                flips.append(images.new_zeros((B, J), dtype=torch.bool))
        if spec.jitter is not None or spec.greyscale:
            x = color_jitter(
                x.flatten(0, 1),
                spec.jitter or (0, 0, 0, 0),
                generator,
                probability=spec.jitter_probability,
                greyscale=spec.greyscale,
            ).view(B, J, C, H, W)
        return spec.finish(x), Drawn(*box, *flips)

    def _boxes(
        self, shape: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random ``(top, height, left, width)`` in whole pixels, int64 ``shape`` each.

        Where torchvision draws again when a side exceeds the image, the side is cut to it.
        """
        H, W = self.size  # noqa: N806
        low, high = self.spec.scale
        log_low, log_high = (math.log(r) for r in self.spec.ratio)
        area = H * W * (low + (high - low) * self._uniform(shape, generator))
        ratio = torch.exp(log_low + (log_high - log_low) * self._uniform(shape, generator))
        height = torch.sqrt(area / ratio).round().clamp(1, H)
        width = torch.sqrt(area * ratio).round().clamp(1, W)
        top = (self._uniform(shape, generator) * (H - height + 1)).floor().clamp(max=H - 1)
        left = (self._uniform(shape, generator) * (W - width + 1)).floor().clamp(max=W - 1)
        return top.long(), height.long(), left.long(), width.long()

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, device=self._rows.device)


def resize_matrix(offset: int, length: int, size: int) -> Tensor:
    """The ``[size, size]`` matrix that resizes pixels ``offset : offset + length`` to ``size``.

    Bilinear as Pillow does it: output pixel o has its centre at (o + ½) · length/size in the crop,
    and takes the triangle-weighted mean of the crop's pixels around it.
    """
    center = (torch.arange(size) + 0.5) * length / size  # [size] in crop coordinates
    pixel = torch.arange(size) - offset + 0.5  # [size] centres of input pixels there
    weight = (1 - (pixel[None] - center[:, None]).abs()).clamp_min(0)  # [out, in]
    weight[:, (pixel < 0) | (pixel > length)] = 0
    return weight / weight.sum(1, keepdim=True)


def _resize_table(size: int) -> Tensor:
    """``table[length - 1, offset]`` is the resize matrix of that box: ``[size, size, size, size]``.

    Boxes that leave the image keep zeros; they are never looked up.
    """
    table = torch.zeros(size, size, size, size)
    for length in range(1, size + 1):
        for offset in range(size - length + 1):
            table[length - 1, offset] = resize_matrix(offset, length, size)
    return table
