"""Embedding files by a repzoo server, for an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from repzoo_client import Client, InvalidImage
from repzoo_client.retrieval.folder import Embedded

__all__ = ["ServerEmbedder"]


class ServerEmbedder:
    """Embeds files with a model that a server has.

        >>> with ServerEmbedder.connect("http://127.0.0.1:3000", "simvae-mnist") as embedder:
        ...     report = index_folder(index, "photos", embedder)

    Args:
        client: of the server.
        model: name of a model that it serves.

    Attributes:
        model: what the server says of it.
    """

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self.model = client.model(model)

    @classmethod
    @contextmanager
    def connect(cls, url: str, model: str) -> Iterator[ServerEmbedder]:
        """One with a client of its own."""
        with Client(url) as client:
            yield cls(client, model)

    def __call__(self, files: Sequence[bytes], /) -> Embedded:
        """Embed all files that are images; see `repzoo_client.retrieval.folder.Embedded`."""
        places = list(range(len(files)))
        bad: dict[int, str] = {}
        while places:
            try:
                return self._embed([files[place] for place in places], bad)
            except InvalidImage as error:
                if error.index is None:
                    raise
                bad[places.pop(error.index)] = error.detail
        return Embedded(np.empty((0, 0), np.float32), None, None, bad)

    def _embed(self, files: list[bytes], bad: dict[int, str]) -> Embedded:
        name = self.model.name
        if self.model.config["has_posterior"]:
            return Embedded(*self._client.posterior(files, model=name), bad)
        mean = self._client.embed(files, model=name)
        return Embedded(mean, None, self._client.uncertainty(files, model=name), bad)
