"""Random: an untrained encoder, the lower bound of every comparison."""

from __future__ import annotations

from torch import Tensor

from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["Random"]


class Random(Objective):
    """Initial weights that stay as they are.

    Its loss is 0 whatever the weights, with gradient 0, so that all machinery runs and nothing
    moves; weights must not decay. Batch normalisation, where there is any, does collect the
    running statistics that it will be evaluated with.
    """

    @classmethod
    def build(cls, parts: Parts) -> Random:
        return cls(parts.encoder)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, which is 0."""
        return {"loss": 0 * self.encoder(batch.views.flatten(0, 1)).sum()}
