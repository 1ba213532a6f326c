"""Read and write ``.npz`` files without pickle."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import PackageError
from repzoo.files import write_atomically

__all__ = ["read_arrays", "write_arrays"]

#: Limit on the unpacked size of one file in bytes. A small file can unpack to any size.
MAX_BYTES = 2**28


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz`` file.

    Raises:
        PackageError: If the file is missing or damaged, unpacks to more than `MAX_BYTES`, or
            holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_BYTES:
            raise PackageError(f"{path} unpacks to {unpacked} bytes; the limit is {MAX_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except PackageError:
        raise
    except FileNotFoundError:
        raise PackageError(f"{path} does not exist") from None
    except Exception as error:
        # zipfile, its decompressors and NumPy raise nearly every builtin error for damaged files.
        raise PackageError(f"{path} cannot be read: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a compressed ``.npz`` file. The same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, allow_pickle=False)
    write_atomically(path, buffer.getvalue())
