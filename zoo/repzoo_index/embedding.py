"""The model of `zoo index`: on this machine, or on a server."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import InvalidImage, InvalidInput, UnsupportedOperation

from repzoo_index.folder import Embedded, Embedder

if TYPE_CHECKING:
    from repzoo.runtime.encoder import Encoder
    from repzoo_client import Client

__all__ = ["Model", "open_model"]


#: Files of at least this many bytes on average are decoded in a pool of threads. Smaller ones are
#: decoded mostly by Python code, of which only one thread can run at a time.
_THREADED_BYTES = 2**15


class Model(NamedTuple):
    """A model that embeds files, and the facts about it that an index stores."""

    embed: Embedder
    name: str
    revision: str
    dim: int
    metric: Literal["euclidean", "cosine"]


@contextmanager
def open_model(
    name_or_path: str, hub: str | None, server: str | None, *, robust: bool = False
) -> Iterator[Model]:
    """Load a model on this machine, or connect to one on a server.

    With ``robust``, it gives content posteriors instead of the encoder's.

    Raises:
        InvalidInput: If ``server`` is not the URL of a server.
        UnsupportedOperation: If ``robust`` is set and the model has no content posterior.
    """
    if server is None:
        from repzoo.bulk.decoding import usable_cores
        from repzoo.loading import load
        from repzoo.runtime.encoder import NO_CONTENT

        encoder = load(name_or_path, hub=hub)
        config = encoder.config
        if robust and config.content is None:
            raise UnsupportedOperation(f"{config.name} {NO_CONTENT}")
        decoders = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        try:
            yield Model(
                functools.partial(_embed, encoder, robust, decoders),
                config.name,
                encoder.revision,
                config.latent_dim,
                config.metric,
            )
        finally:
            decoders.shutdown(cancel_futures=True)
        return
    from repzoo_client import Client

    try:
        client = Client(server)
    except ValueError as error:
        raise InvalidInput(f"--server: {error}") from None
    with client:
        served = client.model(name_or_path)
        record = served.config
        if robust and "content" not in served.capabilities:
            raise UnsupportedOperation(f"{served.name} on {server} has no content posterior")
        yield Model(
            functools.partial(
                _embed_remotely, client, served.name, robust, record["has_posterior"]
            ),
            record["name"],
            served.revision,
            record["latent_dim"],
            record["metric"],
        )


def _embed(
    encoder: Encoder, robust: bool, decoders: ThreadPoolExecutor, files: Sequence[bytes]
) -> Embedded:
    def decode(data: bytes) -> NDArray[np.uint8] | str:
        try:
            return encoder.preprocess(data)
        except InvalidImage as error:
            return error.detail
        except MemoryError:
            return "not enough memory to decode it"

    large = sum(map(len, files)) >= _THREADED_BYTES * len(files)
    pixels, bad = [np.empty((0, *encoder.config.input.shape), np.uint8)], {}
    for place, found in enumerate((decoders.map if large else map)(decode, files)):
        if isinstance(found, str):
            bad[place] = found
        else:
            pixels.append(found)
    images = np.concatenate(pixels)
    outputs = encoder.outputs(images, content=robust)
    uncertainty = _uncertainties(encoder, outputs, images)
    if robust:
        return Embedded(outputs["content_mean"], outputs["content_variance"], uncertainty, bad)
    variance = np.exp(outputs["log_variance"]) if encoder.config.has_posterior else None
    return Embedded(outputs["embedding"], variance, uncertainty, bad)


def _uncertainties(
    encoder: Encoder, outputs: Mapping[str, NDArray[np.float32]], images: NDArray[np.uint8]
) -> NDArray[np.float32] | None:
    """Compute the uncertainty of each image on its own.

    In a batch, the last digits would depend on the other images. A build that was interrupted has
    other batches than one that was not, and must end with the same index.
    """
    if encoder.config.uncertainty is None:
        return None
    found = np.empty(len(images), np.float32)
    for row in range(len(images)):
        one = slice(row, row + 1)
        found[one] = encoder.uncertainty_of({k: v[one] for k, v in outputs.items()}, images[one])
    return found


def _embed_remotely(
    client: Client, model: str, robust: bool, has_posterior: bool, files: Sequence[bytes]
) -> Embedded:
    errors: dict[int, Exception] = {}
    variance: NDArray[np.float32] | None
    if robust:
        found = client.posterior(
            files, model=model, content=True, on_error="collect", errors=errors
        )
        assert found.content_mean is not None
        mean, variance, uncertainty = found.content_mean, found.content_variance, found.uncertainty
    elif has_posterior:
        mean, variance, uncertainty = client.posterior(
            files, model=model, on_error="collect", errors=errors
        )
    else:
        variance = None
        mean, uncertainty = client.embed_with_uncertainty(
            files, model=model, on_error="collect", errors=errors
        )
    good = [place for place in range(len(files)) if place not in errors]
    return Embedded(
        mean[good],
        None if variance is None else variance[good],
        None if uncertainty is None else uncertainty[good],
        {place: _reason(error) for place, error in errors.items()},
    )


def _reason(error: Exception) -> str:
    """Return the error's text without "image 3: ": the report names the file instead."""
    return re.sub(r"^image \d+: ", "", str(getattr(error, "detail", error)))
