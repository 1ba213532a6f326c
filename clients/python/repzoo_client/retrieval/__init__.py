"""Retrieval with posteriors, on Milvus: ``pip install 'repzoo-client[retrieval]'``.

>>> from repzoo_client.retrieval import PosteriorIndex
>>> with PosteriorIndex.open("index/", model="simvae-mnist") as index:
...     answer = index.search(mean, variance, uncertainty, k=10, metric="trusted", abstain=0.5)[0]
...     answer.abstained, answer.probability, [hit.id for hit in answer.hits]
"""

from __future__ import annotations

from repzoo_client.errors import ClientError
from repzoo_client.retrieval.documents import Documents
from repzoo_client.retrieval.errors import (
    IndexExists,
    IndexInUse,
    IndexNotFound,
    IndexUnavailable,
    InvalidFilter,
    InvalidQuery,
    ModelMismatch,
    RetrievalError,
    RetrievalMissing,
)
from repzoo_client.retrieval.index import PosteriorIndex
from repzoo_client.retrieval.layout import IndexInfo
from repzoo_client.retrieval.searching import Answer, Hit

__all__ = [
    "Answer",
    "ClientError",
    "Documents",
    "Hit",
    "IndexExists",
    "IndexInUse",
    "IndexInfo",
    "IndexNotFound",
    "IndexUnavailable",
    "InvalidFilter",
    "InvalidQuery",
    "ModelMismatch",
    "PosteriorIndex",
    "RetrievalError",
    "RetrievalMissing",
]
