"""A thin client for the repzoo representation API: numpy in, numpy out.

>>> from repzoo_client import Client
>>> with Client("http://127.0.0.1:3000") as client:
...     client.embed(["one.png", "two.png"], model="simvae-mnist").shape
(2, 10)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repzoo_client._async_client import AsyncClient
from repzoo_client._chunks import ImageLike, Images
from repzoo_client._client import Client
from repzoo_client._options import Options, Progress
from repzoo_client._results import (
    Embedding,
    Generation,
    Model,
    Neighbours,
    Posterior,
    Predictions,
    Reconstruction,
)
from repzoo_client.errors import (
    AccessDenied,
    APIError,
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    InvalidImage,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    Overloaded,
    RequestTimedOut,
    RequestTooLarge,
    ServerError,
    ServerUnreachable,
    Unavailable,
    UnexpectedAnswer,
    UnknownTask,
    UnsupportedOperation,
)

if TYPE_CHECKING:
    from repzoo_client.retrieval import PosteriorIndex

__all__ = [
    "APIError",
    "AccessDenied",
    "AsyncClient",
    "Client",
    "ClientClosed",
    "ClientError",
    "DeadlineExceeded",
    "Embedding",
    "Generation",
    "ImageLike",
    "Images",
    "InvalidImage",
    "InvalidRequest",
    "Model",
    "ModelNotFound",
    "Neighbours",
    "NotFound",
    "Options",
    "Overloaded",
    "Posterior",
    "PosteriorIndex",
    "Predictions",
    "Progress",
    "Reconstruction",
    "RequestTimedOut",
    "RequestTooLarge",
    "ServerError",
    "ServerUnreachable",
    "Unavailable",
    "UnexpectedAnswer",
    "UnknownTask",
    "UnsupportedOperation",
]


def __getattr__(name: str) -> Any:
    if name == "PosteriorIndex":  # imported on demand: it needs the "retrieval" extra
        from repzoo_client.retrieval import PosteriorIndex

        return PosteriorIndex
    raise AttributeError(f"module 'repzoo_client' has no attribute {name!r}")
