"""Every error that retrieval raises on purpose; each is a `repzoo_client.ClientError`.

RetrievalError (ClientError)
├── InvalidQuery        (ValueError)        posteriors, ids or options that cannot be used
├── InvalidFilter       (ValueError)        a filter that Milvus does not understand
├── ModelMismatch       (ValueError)        posteriors of another model than the index has
├── IndexNotFound       (LookupError)       there is no index at that place
├── IndexExists         (FileExistsError)   there is one already
├── IndexUnavailable    (ConnectionError)   Milvus cannot be reached, or failed
│   └── IndexInUse                          another process has the folder open
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
    """Base of all errors of an index."""


class InvalidQuery(RetrievalError, ValueError):
    """Posteriors, ids or options cannot be used; the message says what was found and expected."""


class InvalidFilter(RetrievalError, ValueError):
    """A filter is not one, or Milvus does not understand it."""


class ModelMismatch(RetrievalError, ValueError):
    """The index holds posteriors of another model, or of another revision of it."""


class IndexNotFound(RetrievalError, LookupError):
    """There is no index at that place."""


class IndexExists(RetrievalError, FileExistsError):
    """There is an index at that place already."""


class IndexUnavailable(RetrievalError, ConnectionError):
    """Milvus cannot be reached, or failed."""


class IndexInUse(IndexUnavailable):
    """The folder is open already, here or in another process: milvus-lite takes one at a time."""


class RetrievalMissing(RetrievalError, ImportError):
    """What an index needs is not installed."""
