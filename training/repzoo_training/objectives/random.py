"""Random: an untrained encoder, the lower bound in every comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["Random"]


class Random(Objective):
    """Initial weights that never change.

    The encoder is frozen. The loss is 0 times a parameter of its own, so that the training loop
    runs and nothing changes. Batch normalisation layers collect the running statistics that they
    are evaluated with. These are plain means over all batches: after a short run, an exponential
    average would still be close to the initial 0 and 1.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
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
        """Return ``loss``, which is 0."""
        self.encoder(batch.views.flatten(0, 1))
        return {"loss": 0 * self.nothing}
