"""What embeds images for `zoo index`: a model on this machine, or a server."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import InvalidImage, InvalidInput
from repzoo_client.retrieval.folder import Embedded

if TYPE_CHECKING:
    from repzoo.runtime.encoder import Encoder

__all__ = ["Model", "embedding"]


class Model(NamedTuple):
    """What embeds, and what an index remembers of it."""

    embed: Callable[[Sequence[bytes]], Embedded]
    name: str
    revision: str
    dim: int
    metric: Literal["euclidean", "cosine"]


@contextmanager
def embedding(name_or_path: str, hub: str | None, server: str | None) -> Iterator[Model]:
    """A model on this machine, or on a server."""
    if server is None:
        from repzoo.loading import load

        encoder = load(name_or_path, hub=hub)
        config = encoder.config
        yield Model(
            functools.partial(_embed, encoder),
            config.name,
            encoder.revision,
            config.latent_dim,
            config.metric,
        )
        return
    from repzoo_client.retrieval.server import ServerEmbedder

    try:
        connected = ServerEmbedder.connect(server, name_or_path)
    except ValueError as error:
        raise InvalidInput(f"--server: {error}") from None
    with connected as embedder:
        record = embedder.model.config
        yield Model(
            embedder,
            record["name"],
            embedder.model.revision,
            record["latent_dim"],
            record["metric"],
        )


def _embed(encoder: Encoder, files: Sequence[bytes]) -> Embedded:
    pixels, bad = [np.empty((0, *encoder.config.input.shape), np.uint8)], {}
    for place, data in enumerate(files):
        try:
            pixels.append(encoder.preprocess(data))
        except InvalidImage as error:
            bad[place] = error.detail
    images = np.concatenate(pixels)
    outputs = encoder.outputs(images)
    variance = np.exp(outputs["log_variance"]) if encoder.config.has_posterior else None
    return Embedded(outputs["embedding"], variance, _uncertainties(encoder, outputs, images), bad)


def _uncertainties(
    encoder: Encoder, outputs: Mapping[str, NDArray[np.float32]], images: NDArray[np.uint8]
) -> NDArray[np.float32] | None:
    """Of each image alone: beside others its last digits would depend on its place among them.

    A build that goes on has other batches than one that was not interrupted, and must end the same.
    """
    if encoder.config.uncertainty is None:
        return None
    found = np.empty(len(images), np.float32)
    for row in range(len(images)):
        one = slice(row, row + 1)
        found[one] = encoder.uncertainty_of({k: v[one] for k, v in outputs.items()}, images[one])
    return found
