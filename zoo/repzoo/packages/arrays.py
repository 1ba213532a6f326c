"""Reading and writing ``.npz`` files, never with pickle."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import PackageError
from repzoo.files import write_atomically

__all__ = ["read_arrays", "write_arrays"]

#: The most that the arrays of one file may take up in memory: a small file can unpack to anything.
MAX_BYTES = 2**28


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz`` file.

    Raises:
        PackageError: if it is missing, damaged, larger than `MAX_BYTES`, or holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_BYTES:
            raise PackageError(f"{path} unpacks to {unpacked} bytes, more than {MAX_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise PackageError(f"{path} is missing") from None
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as e:
        raise PackageError(f"{path} cannot be read: {e}") from e


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to an ``.npz`` file, compressed; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, allow_pickle=False)
    write_atomically(path, buffer.getvalue())
