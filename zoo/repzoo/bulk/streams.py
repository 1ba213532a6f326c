"""Parquet files that are read from a Python stream."""

from __future__ import annotations

from typing import Any, BinaryIO

import pyarrow.parquet as pq

__all__ = ["open_parquet"]


def open_parquet(stream: BinaryIO, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file such that Arrow starts no thread for it.

    Read it with ``use_threads=False``. A thread of Arrow may hold the last reference to a buffer of
    the stream. If it drops it while Python exits, the process ends with SIGABRT.
    """
    return pq.ParquetFile(stream, pre_buffer=False, **options)
