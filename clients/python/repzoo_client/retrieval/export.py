"""Writing documents to an ``.npz`` file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from repzoo_client.retrieval.documents import Documents

__all__ = ["write_documents"]


def write_documents(path: Path, pages: Iterable[Documents], info: Mapping[str, object]) -> int:
    """Write the file that `PosteriorIndex.export` describes, atomically."""
    nothing = Documents.from_rows([], int(str(info["dim"])))
    pages = [nothing, *pages]
    ids = [name for page in pages for name in page.ids]
    facts = [json.dumps(fact, sort_keys=True) for page in pages for fact in page.metadata]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    arrays = {
        "ids": np.array([ids[i] for i in order], np.str_),
        "mean": np.concatenate([page.mean for page in pages])[order],
        "variance": np.concatenate([page.variance for page in pages])[order],
        "uncertainty": np.concatenate([page.uncertainty for page in pages])[order],
        "metadata": np.array([facts[i] for i in order], np.str_),
        "info": np.array(json.dumps(dict(info), sort_keys=True)),
    }
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(ids)
