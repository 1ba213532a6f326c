"""Give batch normalisations the statistics of some images, without changing what they compute.

A graph has no statistics: its exporter folds them into the convolutions. In evaluation mode that
makes no difference. In training mode, a layer normalises by the statistics of its batch, and its
weight and bias must fit those. Let the layer compute y = a x + c, and let x have mean m and
variance v on the images. Then weight a √(v + ε), bias c + a m and the statistics m and v give the
same y, and nearly the same in training mode.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["settle"]


class _Moments:
    """Sums over everything but the channels."""

    def __init__(self) -> None:
        self.count, self.total, self.square = 0, torch.zeros(()), torch.zeros(())

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()  # [N, C, H, W]
        self.count += x.numel() // x.shape[1]
        self.total = self.total + x.sum((0, 2, 3))
        self.square = self.square + x.square().sum((0, 2, 3))


@torch.no_grad()
def settle(module: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Set the statistics of every batch normalisation in ``module``, and keep its outputs.

    Args:
        module: a module in evaluation mode.
        inputs: batches of its input.
    """
    moments = {each: _Moments() for each in module.modules() if isinstance(each, nn.BatchNorm2d)}
    handles = [norm.register_forward_pre_hook(of.add) for norm, of in moments.items()]
    try:
        for batch in inputs:
            module(batch)
    finally:
        for handle in handles:
            handle.remove()
    for norm, of in moments.items():
        if not of.count:
            continue
        mean = of.total / of.count
        variance = (of.square / of.count - mean.square()).clamp(min=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * factor
        norm.weight.copy_(factor * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * factor)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
