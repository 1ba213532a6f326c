"""Views of images, made in batches as tensors on the device.

An axis-aligned crop and resize is linear and separable: the view is ``R_h · X · R_wᵀ``. There are
few boxes of whole pixels, so a table holds all resize matrices, and a batch of views takes one
lookup and two batched matrix products. No step waits for Python code per image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeAlias

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from repzoo_training.degradations import degrade_at_random
from repzoo_training.views.color import color_jitter

__all__ = ["Change", "Drawn", "ViewSpec", "Views", "register", "resize_matrix"]

#: The largest image side with a table of resize matrices, which takes size⁴ numbers.
_TABLE_SIZE = 64


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"the range must be ascending, got {values}")
    return values


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]


#: A random change: views float32 ``[N, C, H, W]`` in [0, 1], and a generator on their device, to
#: views of the same shape.
Change: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]

#: The changes for `ViewSpec.extra`.
EXTRA: dict[str, Change] = {}


def register(name: str, change: Change) -> None:
    """Add a random change of your own, for ``augmentation.extra`` of a recipe.

    Raises:
        ValueError: If the name is taken.
    """
    if name in EXTRA:
        raise ValueError(f"the change {name!r} exists already: choose another name")
    EXTRA[name] = change


class ViewSpec(BaseModel):
    """The random changes that make a view of an image. The defaults change nothing.

    ``scale`` is the range of the area of a crop, relative to the image, and ``ratio`` the range of
    its aspect ratio (log-uniform), as in torchvision's RandomResizedCrop. ``crop_probability`` is
    the probability that a view is cropped, and not of the whole image. ``jitter`` holds the
    strengths of brightness, contrast, saturation and hue. ``greyscale`` is the probability that a
    view has no colour, and ``degraded`` the probability that it is blurred, noisy, occluded or the
    like, see `repzoo_training.degradations`. ``binarize`` is a threshold, applied last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: Annotated[tuple[Share, Share], AfterValidator(_ascending)] = Field(
        default=(1.0, 1.0), description="range of the area of a crop, relative to the image"
    )
    ratio: Annotated[tuple[Positive, Positive], AfterValidator(_ascending)] = Field(
        default=(1.0, 1.0), description="range of the aspect ratio of a crop"
    )
    crop_probability: Probability = Field(default=1.0, description="probability of a crop")
    horizontal_flip: Probability = Field(default=0.0, description="probability of mirroring")
    vertical_flip: Probability = Field(
        default=0.0, description="probability of an upside-down flip"
    )
    jitter: tuple[Strength, Strength, Strength, Strength] | None = Field(
        default=None, description="strengths of brightness, contrast, saturation and hue"
    )
    jitter_probability: Probability = Field(default=0.8, description="probability of jitter")
    greyscale: Probability = Field(default=0.0, description="probability of a view without colour")
    degraded: Probability = Field(
        default=0.0, description="probability of blur, noise, occlusion or the like"
    )
    extra: tuple[str, ...] = Field(
        default=(), description="your own changes, by the names you registered, in order"
    )
    binarize: Probability | None = Field(
        default=None, description="threshold that makes pixels black or white"
    )

    @field_validator("extra")
    @classmethod
    def _are_registered(cls, extra: tuple[str, ...]) -> tuple[str, ...]:
        for name in extra:
            if name not in EXTRA:
                known = ", ".join(sorted(EXTRA)) or "none is registered"
                raise ValueError(f"unknown change {name!r}: {known}")
        return extra

    def finish(self, x: Tensor) -> Tensor:
        """Apply the deterministic last step, to views and whole images alike."""
        if self.binarize is not None:
            return (x >= self.binarize).to(torch.float32)
        return x.clamp(0, 1).contiguous()


class Drawn(NamedTuple):
    """The random draws of each view, ``[B, J]`` each: its box in whole pixels, and its flips."""

    top: Tensor
    height: Tensor
    left: Tensor
    width: Tensor
    horizontal_flip: Tensor
    vertical_flip: Tensor


class Views:
    """Makes J random views of each image in a batch.

    Args:
        spec: The random changes.
        size: ``(H, W)`` of the images and of their views.
        device: The device of the images.
    """

    def __init__(
        self, spec: ViewSpec, size: tuple[int, int], device: torch.device | str = "cpu"
    ) -> None:
        self.spec = spec
        self.size = size
        self.device = torch.device(device)
        self._tables = {
            side: _resize_table(side).to(device) for side in {*size} if side <= _TABLE_SIZE
        }  # [side, side, side, side]

    def __call__(self, images: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """Return views float32 ``[B, J, C, H, W]`` in [0, 1] of images uint8 ``[B, C, H, W]``."""
        return self.draw(images, views, generator)[0]

    def draw(self, images: Tensor, views: int, generator: torch.Generator) -> tuple[Tensor, Drawn]:
        """Return the views, and the boxes and flips that made them."""
        spec = self.spec
        B, C, H, W = images.shape  # noqa: N806
        J = views  # noqa: N806
        x = images.to(torch.float32).div_(255)  # [B, C, H, W]
        if spec.scale != (1.0, 1.0) or spec.ratio != (1.0, 1.0):
            box = self._boxes((B, J), generator)  # [B, J] each
            top, height, left, width = box
            rows = self._matrices(top, height, H)  # [B, J, H, H]
            columns = self._matrices(left, width, W)  # [B, J, W, W]
            x = rows.flatten(1, 2)[:, None] @ x  # [B, C, J*H, W]
            x = x.unflatten(2, (J, H)) @ columns[:, None].mT  # [B, C, J, H, W]
            x = x.transpose(1, 2)  # [B, J, C, H, W]
        else:
            zero = images.new_zeros((B, J), dtype=torch.int64)
            box = zero, zero + H, zero, zero + W
            x = x[:, None].expand(B, J, C, H, W)  # [B, J, C, H, W]
        flips = []
        for dim, probability in ((-1, spec.horizontal_flip), (-2, spec.vertical_flip)):
            if probability:
                chosen = self._uniform((B, J, 1, 1, 1), generator) < probability  # [B, J, 1, 1, 1]
                x = torch.where(chosen, x.flip(dim), x)
                flips.append(chosen.view(B, J))
            else:
                flips.append(images.new_zeros((B, J), dtype=torch.bool))
        if spec.jitter is not None or spec.greyscale:
            x = color_jitter(
                x.flatten(0, 1),  # [B*J, C, H, W]
                spec.jitter or (0, 0, 0, 0),
                generator,
                probability=spec.jitter_probability,
                greyscale=spec.greyscale,
            ).view(B, J, C, H, W)
        if spec.degraded:
            x = x.reshape(B * J, C, H, W).contiguous()
            rows = (self._uniform((B * J,), generator) < spec.degraded).nonzero()[:, 0]
            x = x.index_copy(0, rows, degrade_at_random(x[rows], generator)).view(B, J, C, H, W)
        for name in spec.extra:
            changed = EXTRA[name](x.reshape(B * J, C, H, W), generator)
            if changed.shape != (B * J, C, H, W):
                raise ValueError(
                    f"the change {name!r} returned the shape {tuple(changed.shape)}, expected "
                    f"{(B * J, C, H, W)}"
                )
            x = changed.view(B, J, C, H, W)
        return spec.finish(x), Drawn(*box, *flips)

    def _boxes(
        self, shape: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw random ``(top, height, left, width)`` in whole pixels, int64 ``shape`` each.

        If a side exceeds the image, it is cut to the image; torchvision draws again instead.
        """
        H, W = self.size  # noqa: N806
        low, high = self.spec.scale
        log_low, log_high = (math.log(r) for r in self.spec.ratio)
        area = H * W * (low + (high - low) * self._uniform(shape, generator))
        ratio = torch.exp(log_low + (log_high - log_low) * self._uniform(shape, generator))
        height = torch.sqrt(area / ratio).round().clamp(1, H)
        width = torch.sqrt(area * ratio).round().clamp(1, W)
        if self.spec.crop_probability < 1:
            whole = self._uniform(shape, generator) >= self.spec.crop_probability
            height, width = height.masked_fill(whole, H), width.masked_fill(whole, W)
        top = (self._uniform(shape, generator) * (H - height + 1)).floor().clamp(max=H - 1)
        left = (self._uniform(shape, generator) * (W - width + 1)).floor().clamp(max=W - 1)
        return top.long(), height.long(), left.long(), width.long()

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, device=self.device)

    def _matrices(self, offset: Tensor, length: Tensor, size: int) -> Tensor:
        """Look up or compute resize matrices: int64 ``[B, J]`` twice -> ``[B, J, size, size]``."""
        if size in self._tables:
            return self._tables[size][length - 1, offset]
        return resize_matrix(offset[..., None, None], length[..., None, None], size)


def resize_matrix(offset: Tensor | int, length: Tensor | int, size: int) -> Tensor:
    """Return the matrices that resize pixels ``offset : offset + length`` to ``size``.

    Bilinear as in Pillow: output pixel o has its centre at (o + ½) · length/size in the crop, and
    takes the triangle-weighted mean of the crop's pixels around it.

    Args:
        offset: The first pixel, a number or ``[..., 1, 1]``.
        length: The number of pixels, a number or ``[..., 1, 1]``.
        size: The size of the image and of the result.

    Returns:
        float32 ``[..., size, size]``.
    """
    device = offset.device if isinstance(offset, Tensor) else None
    index = torch.arange(size, device=device)
    center = (index[:, None] + 0.5) * length / size  # [..., out, 1], in crop coordinates
    pixel = index[None] - offset + 0.5  # [..., 1, in], centres of input pixels in the crop
    weight = (1 - (pixel - center).abs()).clamp_min(0)  # [..., out, in]
    weight = weight.masked_fill((pixel < 0) | (pixel > length), 0)
    return weight / weight.sum(-1, keepdim=True)


def _resize_table(size: int) -> Tensor:
    """Return a table of all resize matrices: ``[size, size, size, size]``.

    ``table[length - 1, offset]`` is the matrix of that box. Entries for boxes that leave the image
    are zero, and are never looked up.
    """
    table = torch.zeros(size, size, size, size)
    for length in range(1, size + 1):
        for offset in range(size - length + 1):
            table[length - 1, offset] = resize_matrix(offset, length, size)
    return table
