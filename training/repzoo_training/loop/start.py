"""Weights to start a run from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["Start"]


class Start(NamedTuple):
    """The weights of another model.

    Attributes:
        source: What the weights are, for the record of the run and the card.
        recipe: The recipe that they were trained with.
        encoder: The state of an encoder, on the CPU.
        decoder: The state of its decoder, if it has one.
    """

    source: str
    recipe: str
    encoder: Mapping[str, Tensor]
    decoder: Mapping[str, Tensor] | None = None

    def load_into(self, encoder: nn.Module, decoder: nn.Module | None) -> None:
        """Load the weights into new networks. A decoder of another shape stays as it is.

        Raises:
            ValueError: If the encoder has another shape.
        """
        mine = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in self.encoder.items()}
        for name in [*theirs, *mine]:
            if mine.get(name) != theirs.get(name):
                raise ValueError(
                    f"the encoder of {self.source} is another network: its {name} is "
                    f"{theirs.get(name, 'missing')}, and the recipe's is "
                    f"{mine.get(name, 'missing')}; it was trained with the recipe {self.recipe}, "
                    "whose network, latent_dim and input fit"
                )
        encoder.load_state_dict(self.encoder)
        if decoder is not None and self.decoder is not None:
            shapes = {name: value.shape for name, value in decoder.state_dict().items()}
            if shapes == {name: value.shape for name, value in self.decoder.items()}:
                decoder.load_state_dict(self.decoder)
