"""The MLP pair of the SimVAE paper, 784-2000-500-500-2·10 and its mirror."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["MLPBackbone", "MLPDecoder"]


class MLPBackbone(nn.Sequential):
    """Images ``[N, C, H, W]`` -> features ``[N, feature_dim]``, the last hidden layer."""

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int]) -> None:
        super().__init__(nn.Flatten(), *_layers((math.prod(image_shape), *hidden)))
        self.feature_dim = hidden[-1]


class MLPDecoder(nn.Module):
    """Features ``[N, hidden[-1]]`` of the stem -> logits ``[N, C, H, W]``; a mirrored backbone."""

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.feature_dim = hidden[-1]
        self.image_shape = image_shape
        self.layers = nn.Sequential(nn.ReLU(), *_layers(tuple(reversed(hidden))))
        self.output = nn.Linear(hidden[0], math.prod(image_shape))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.output(self.layers(features)).unflatten(1, self.image_shape)
        return logits


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        linear = nn.Linear(fan_in, fan_out)
        # He initialisation: PyTorch's default halves the variance of the signal at every ReLU
        # layer, and three such layers learn several times more slowly.
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(inplace=True)]
    return layers
