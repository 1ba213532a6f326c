"""Projection and prediction heads, between a representation and its loss."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Sequential):
    """An MLP on representations: ``[N, widths[0]]`` -> ``[N, widths[-1]]``.

    Args:
        widths: The widths of input, hidden layers and output.
        norm: Batch normalisation before each hidden ReLU.
        last_norm: Batch normalisation of the output, without scale and shift.

    Raises:
        ValueError: If a width is not a positive integer.
    """

    def __init__(
        self, widths: Sequence[int], *, norm: bool = True, last_norm: bool = False
    ) -> None:
        if not all(isinstance(width, int) and width > 0 for width in widths):
            raise ValueError(f"the widths of a head must be positive integers, got {[*widths]}")
        layers: list[nn.Module] = []
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), start=1):
            last = number == len(widths) - 1
            # Batch normalisation would subtract a bias again.
            normed = last_norm if last else norm
            linear = nn.Linear(fan_in, fan_out, bias=not normed)
            if not last:
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            layers.append(linear)
            if normed:
                layers.append(nn.BatchNorm1d(fan_out, affine=not last))
            if not last:
                layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)
