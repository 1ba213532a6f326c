"""Writing documents to one file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from repzoo_client.retrieval.documents import Documents

__all__ = ["write_documents"]


def write_documents(path: Path, pages: Sequence[Documents], info: Mapping[str, object]) -> int:
    """Write an ``.npz`` file as `PosteriorIndex.export` says, whole or not at all."""
    dim = int(str(info["dim"]))
    arrays = {
        "ids": np.array([name for page in pages for name in page.ids], np.str_),
        "mean": np.concatenate([np.empty((0, dim), np.float32), *(page.mean for page in pages)]),
        "variance": np.concatenate(
            [np.empty((0, dim), np.float32), *(page.variance for page in pages)]
        ),
        "uncertainty": np.concatenate(
            [np.empty(0, np.float32), *(page.uncertainty for page in pages)]
        ),
        "metadata": np.array(
            [json.dumps(fact, sort_keys=True) for page in pages for fact in page.metadata], np.str_
        ),
        "info": np.array(json.dumps(dict(info), sort_keys=True)),
    }
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(arrays["ids"])
