"""All errors that retrieval raises on purpose; each is a `repzoo_client.ClientError`.

RetrievalError (ClientError)
├── InvalidQuery        (ValueError)        invalid posteriors, IDs or options
├── InvalidFilter       (ValueError)        Milvus does not understand the filter
├── ModelMismatch       (ValueError)        the index holds posteriors of another model
├── IndexNotFound       (LookupError)       the index does not exist
├── IndexExists         (FileExistsError)   the index exists already
├── IndexUnavailable    (ConnectionError)   Milvus cannot be reached, or failed
│   └── IndexInUse                          the folder is already open
└── RetrievalMissing    (ImportError)       pymilvus or milvus-lite is not installed
"""

from __future__ import annotations

from repzoo_client.errors import ClientError

__all__ = [
    "IndexExists",
    "IndexInUse",
    "IndexNotFound",
    "IndexUnavailable",
    "InvalidFilter",
    "InvalidQuery",
    "ModelMismatch",
    "RetrievalError",
    "RetrievalMissing",
]


class RetrievalError(ClientError):
    """Base class of all errors of retrieval."""


class InvalidQuery(RetrievalError, ValueError):
    """Posteriors, IDs or options are invalid; the message says what was expected."""


class InvalidFilter(RetrievalError, ValueError):
    """A filter has an invalid value, or Milvus does not understand it."""


class ModelMismatch(RetrievalError, ValueError):
    """The index holds posteriors of another model, or of another revision of it."""


class IndexNotFound(RetrievalError, LookupError):
    """The index does not exist."""


class IndexExists(RetrievalError, FileExistsError):
    """The index exists already."""


class IndexUnavailable(RetrievalError, ConnectionError):
    """Milvus cannot be reached, or failed."""


class IndexInUse(IndexUnavailable):
    """The folder is already open, here or in another process: milvus-lite allows one at a time."""


class RetrievalMissing(RetrievalError, ImportError):
    """The "retrieval" extra is not installed."""
