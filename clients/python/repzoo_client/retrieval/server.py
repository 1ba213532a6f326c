"""Embedding files by a repzoo server, for an index."""

from __future__ import annotations

from collections.abc import Sequence

from repzoo_client import Client
from repzoo_client._options import Options
from repzoo_client.retrieval.folder import Embedded

__all__ = ["ServerEmbedder"]


class ServerEmbedder:
    """Embeds files with a model that a server has.

        >>> with Client("http://127.0.0.1:3000") as client:
        ...     report = index_folder(index, "photos", ServerEmbedder(client, "simvae-mnist"))

    Args:
        client: of the server.
        model: name of a model that it serves.

    Attributes:
        model: what the server says of it.
    """

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self.model = client.model(model)

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
