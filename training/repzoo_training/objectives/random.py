"""Random: an untrained encoder, the lower bound of every comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["Random"]


class Random(Objective):
    """Initial weights that stay as they are, whatever the optimiser.

    The encoder is frozen. Its loss is 0 times a number of its own, so that all machinery runs and
    nothing moves. Batch normalisation, where there is any, collects the running statistics that it
    will be evaluated with: plain means over all batches, since after a short run an exponential
    average would still hold much of the 0 and 1 that it started with.

    Args:
        encoder: images ``[N, C, H, W]`` -> embedding ``[N, D]``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder.requires_grad_(False))
        self.nothing = nn.Parameter(torch.zeros(()))
        for module in encoder.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = None

    @classmethod
    def build(cls, parts: Parts) -> Random:
        return cls(parts.encoder)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, which is 0."""
        self.encoder(batch.views.flatten(0, 1))
        return {"loss": 0 * self.nothing}
