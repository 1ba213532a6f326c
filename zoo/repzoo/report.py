"""The output of commands: a table for people, JSON for programs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import click

from repzoo.errors import IntegrityError, RepzooError

__all__ = ["SOME_FAILED", "Report", "format_bytes", "format_table", "printable", "reporting"]

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
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


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
