"""The output of commands: a table for people, JSON for programs."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import click

from repzoo.errors import IntegrityError, RepzooError

__all__ = [
    "SOME_FAILED",
    "Report",
    "format_bytes",
    "format_table",
    "lay_out",
    "printable",
    "reporting",
    "terminal_width",
]

#: Exit status of a command that finished, but had to skip some of its input.
SOME_FAILED: Final = 3


class Report(NamedTuple):
    """The result of a command, for programs and for people."""

    #: Printed as JSON with ``--json``.
    data: Any
    text: str
    #: Exit status: 0, or `SOME_FAILED`.
    status: int = 0


def reporting(command: Callable[..., Report]) -> Callable[..., None]:
    """Add the option ``--json`` to a command, and print the report that it returns.

    With ``--json`` an error is also printed as JSON on stdout, in addition to the line on stderr:
    ``{"error": {"type", "message", "files"}}``.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print only JSON on stdout.")
    @functools.wraps(command)
    def run(*, as_json: bool, **parameters: Any) -> None:
        try:
            report = command(**parameters)
        except (RepzooError, OSError) as error:
            if as_json:
                problem = {"type": type(error).__name__, "message": str(error)}
                files = {"files": error.files} if isinstance(error, IntegrityError) else {}
                click.echo(json.dumps({"error": {**problem, **files}}, indent=2))
            raise
        click.echo(json.dumps(report.data, indent=2) if as_json else report.text)
        if report.status:
            click.get_current_context().exit(report.status)

    return run


def format_table(rows: Iterable[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Align rows of text in columns.

    Args:
        rows: Rows of equal length.
        header: The names of the columns.
    """
    lines = [[*map(printable, row)] for row in rows]
    if header is not None:
        lines.insert(0, [*header])
    return lay_out([*zip(*lines, strict=True)]) if lines else ""


def lay_out(
    columns: Sequence[Sequence[str]],
    numbers: Collection[int] = (),
    width: int | None = None,
) -> str:
    """Join columns of text, aligned.

    Args:
        columns: The cells of each column; at least one column.
        numbers: The indices of the columns that are aligned to the right.
        width: The length of the lines. Columns that do not fit follow in further blocks, which
            repeat the first column. None: one block.
    """
    padded = []
    for index, column in enumerate(columns):
        longest = max(map(len, column))
        padded.append([c.rjust(longest) if index in numbers else c.ljust(longest) for c in column])
    first, *rest = padded
    blocks, used = [[first]], len(first[0])
    for column in rest:
        if width is not None and len(blocks[-1]) > 1 and used + 2 + len(column[0]) > width:
            blocks.append([first])
            used = len(first[0])
        blocks[-1].append(column)
        used += 2 + len(column[0])
    return "\n\n".join(
        "\n".join("  ".join(line).rstrip() for line in zip(*block, strict=True)) for block in blocks
    )


def terminal_width() -> int | None:
    """Return the width of the terminal that stdout is connected to, or None elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def printable(text: str) -> str:
    """Replace characters that would move the cursor or break lines: cards come from anyone."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def format_bytes(size: float) -> str:
    """Format a size in bytes with a binary unit, such as ``5.4 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
