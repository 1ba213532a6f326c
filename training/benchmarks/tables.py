"""Result tables: CSV files in ``docs/results`` with a row per number."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["add_rows"]


def add_rows(path: Path, fields: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Append rows to a table. A new table begins with the names of its columns."""
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not os.fstat(file.fileno()).st_size:
            writer.writerow(fields)
        writer.writerows(rows)
