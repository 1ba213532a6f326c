"""How commands say what they did: a table for people, JSON for programs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import click

from repzoo.errors import IntegrityError, RepzooError

__all__ = ["Report", "format_bytes", "format_table", "reporting"]


class Report(NamedTuple):
    """What a command has to say, in both forms."""

    data: Any
    text: str


def reporting(command: Callable[..., Report]) -> Callable[..., None]:
    """Give a command the option ``--json``, and print what it returns.

    With ``--json`` an error, too, is JSON on stdout: ``{"error": {"type", "message", "files"}}``,
    beside its line on stderr.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, nothing else.")
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

    return run


def format_table(rows: Iterable[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Lay rows of text out in columns that are two spaces apart.

    Args:
        rows: of equal length.
        header: names of the columns.
    """
    lines = [[*map(_printable, row)] for row in rows]
    if header is not None:
        lines.insert(0, [*header])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _printable(cell: str) -> str:
    """What a card says must not move the cursor, nor break a table's lines."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell)


def format_bytes(size: float) -> str:
    """A size in bytes with a binary unit, such as ``5.4 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
