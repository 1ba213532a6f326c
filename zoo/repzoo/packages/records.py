"""Read the small files of a package: records and their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from repzoo.errors import PackageError
from repzoo.files import open_regular

__all__ = ["parse_record", "read_file"]

RecordT = TypeVar("RecordT", bound=BaseModel)


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: If the file does not exist.
        PackageError: If it cannot be read or is larger.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise PackageError(f"{path} has more than {limit} bytes")
    return data


def parse_record(kind: type[RecordT], data: bytes, source: str) -> RecordT:
    """Parse the JSON of a record and report all problems in one line.

    Args:
        kind: The record's type.
        data: JSON.
        source: What to call the data in an error.

    Raises:
        PackageError: If the data is not JSON or not a valid record.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" if e["loc"] else e["msg"]
            for e in error.errors()
        ]
        raise PackageError(f"{source}: {'; '.join(problems)}") from None
