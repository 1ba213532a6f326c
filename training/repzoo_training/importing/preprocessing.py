"""What an imported encoder expects of its input: size, resize policy and normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from repzoo.packages.config import InputSpec, ResizePolicy

__all__ = ["Filter", "Fit", "Flags", "Preprocessing"]

Floats = NDArray[np.float32]
Fit: TypeAlias = Literal["crop", "squash"]
Filter: TypeAlias = Literal["box", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the input of an encoder: ``(pixels / 255 - mean) / std``.

    None stands for what a source does not say, and flags must.

    Attributes:
        size: ``(height, width)`` of the encoder's input.
        channels: 1 for grey, 3 for RGB.
        mean: the mean of each channel, for pixels in [0, 1].
        std: the standard deviation of each channel.
        resize: ``(height, width)`` before the centre is cropped. By default no border is cropped.
        fit: whether the image is scaled to cover this size, or squashed to it.
        filter: the Pillow filter.
    """

    size: tuple[int, int] | None = None
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: tuple[int, int] | None = None
    fit: Fit = "crop"
    filter: Filter = "bilinear"

    @property
    def spec(self) -> InputSpec:
        """The input of the package.

        Raises:
            InvalidInput: If the size before the crop is smaller than the crop.
        """
        assert self.size is not None
        height, width = self.size
        resize = None if self.resize == self.size else self.resize
        if resize is not None and (resize[0] < height or resize[1] < width):
            raise InvalidInput(
                f"the size before the crop is {resize[0]}x{resize[1]}, smaller than the input of "
                f"{height}x{width}: set --resize or --size"
            )
        # torchvision and timm round the longer side down.
        policy = ResizePolicy(fit=self.fit, filter=self.filter, rounding="floor", size=resize)
        return InputSpec(height=height, width=width, channels=self.channels, resize=policy)

    def normalise(self, pixels: NDArray[np.uint8]) -> Floats:
        """Return the encoder's input of uint8 ``[N, H, W, C]``: float32 ``[N, C, H, W]``."""
        mean, std = (np.asarray(each, np.float64) for each in (self.mean, self.std))
        scaled = (pixels / 255 - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


@dataclass(frozen=True)
class Flags:
    """What the user says about the preprocessing. None stands for what the source says."""

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    fit: Fit | None = None
    filter: Filter | None = None

    def applied_to(self, found: Preprocessing, source: str) -> Preprocessing:
        """Return the complete preprocessing.

        Raises:
            InvalidInput: If it is incomplete, or a flag contradicts the encoder.
        """
        size = self.size or found.size
        if size is None:
            raise InvalidInput(f"{source} takes images of any size: choose one with --size")
        if found.size not in (None, size):
            height, width = found.size or (0, 0)
            raise InvalidInput(f"{source} takes {height}x{width} pixels only; leave out --size")
        if self.resize is not None:
            # In proportion, as the shorter side is scaled to this length.
            shorter = min(size)
            resize = (size[0] * self.resize // shorter, size[1] * self.resize // shorter)
        else:
            resize = found.resize or size
        changes = {
            name: value for name in ("fit", "filter") if (value := getattr(self, name)) is not None
        }
        return replace(
            found,
            size=size,
            resize=resize,
            mean=_per_channel("mean", self.mean or found.mean, found.channels, source),
            std=_per_channel("std", self.std or found.std, found.channels, source),
            **changes,
        )


def _per_channel(
    name: str, values: tuple[float, ...] | None, channels: int, source: str
) -> tuple[float, ...]:
    if values is None:
        raise InvalidInput(
            f"{source} does not say how pixels are normalised: set --mean and --std. ImageNet's "
            "are --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; pixels in [0, 1] are --mean 0 "
            "--std 1"
        )
    if len(values) == 1:
        values *= channels
    if len(values) != channels:
        raise InvalidInput(f"--{name} has {len(values)} numbers; expected 1 or {channels}")
    if not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
        kind = "positive numbers" if name == "std" else "numbers"
        raise InvalidInput(f"--{name} is {','.join(map(str, values))}; expected {kind}")
    return values
