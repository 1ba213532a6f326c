"""What embeds images for `zoo index`: a model on this machine, or a server."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from repzoo_client.retrieval.folder import Embedded

from repzoo.errors import InvalidImage

if TYPE_CHECKING:
    from repzoo.encoder import Encoder

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

    with ServerEmbedder.connect(server, name_or_path) as embedder:
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
    if encoder.config.has_posterior:
        return Embedded(*encoder.posterior(images), bad)
    calibrated = None if encoder.config.uncertainty is None else encoder.uncertainty(images)
    return Embedded(encoder.embed(images), None, calibrated, bad)
