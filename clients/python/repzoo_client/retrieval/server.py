"""Embedding files by a repzoo server, for an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from repzoo_client import Client
from repzoo_client._options import Options
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
    def connect(cls, url: str, model: str) -> AbstractContextManager[ServerEmbedder]:
        """One with a client of its own.

        Raises:
            ValueError: at once, if ``url`` is none of a server.
        """
        return _connected(Client(url), model)

    def __call__(self, files: Sequence[bytes], /) -> Embedded:
        """Embed all files that are images; see `repzoo_client.retrieval.folder.Embedded`."""
        errors: dict[int, Exception] = {}
        ask: Options = {"on_error": "collect", "errors": errors}
        name = self.model.name
        if self.model.config["has_posterior"]:
            mean, variance, uncertainty = self._client.posterior(files, model=name, **ask)
        else:
            variance = None
            mean, uncertainty = self._client.embed_with_uncertainty(files, model=name, **ask)
        good = [place for place in range(len(files)) if place not in errors]
        return Embedded(
            mean[good],
            None if variance is None else variance[good],
            None if uncertainty is None else uncertainty[good],
            {place: getattr(error, "detail", str(error)) for place, error in errors.items()},
        )


@contextmanager
def _connected(client: Client, model: str) -> Iterator[ServerEmbedder]:
    with client:
        yield ServerEmbedder(client, model)
