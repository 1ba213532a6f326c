"""The embeddings of a run as a NumPy file."""

from __future__ import annotations

import io

import numpy as np

from repzoo.bulk.places import Place
from repzoo.bulk.streams import open_parquet

__all__ = ["parquet_beside", "write_npy"]


def parquet_beside(out: str) -> str:
    """Return the Parquet file that has the ids of the rows of ``FILE.npy``: ``FILE.parquet``."""
    return out.removesuffix(".npy") + ".parquet"


def write_npy(out: str) -> None:
    """Write the embeddings in ``FILE.parquet`` to ``FILE.npy``: float32 ``[N, D]``.

    Row i belongs to row i of the Parquet file; it is NaN if that has an error. The array is held in
    memory.
    """
    with open_parquet(Place.of(parquet_beside(out)).buffered()) as table:
        width = table.schema_arrow.field("embedding").type.list_size
        array = np.full((table.metadata.num_rows, width), np.nan, np.float32)
        at = 0
        for batch in table.iter_batches(columns=["embedding"]):
            rows, column = array[at : at + len(batch)], batch["embedding"]
            rows[column.is_valid().to_numpy(zero_copy_only=False)] = (
                column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            )
            at += len(batch)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    Place.of(out).write(buffer.getvalue())
