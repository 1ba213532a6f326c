"""Docstrings as Markdown: the few marks of reStructuredText in them are translated."""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

__all__ = ["Docstrings", "plain", "table", "with_code"]

_RULE = r"^ *=+(?: +=+)+$"
#: A simple table: rule, head, rule, rows, rule; or without a head: rule, rows, rule.
_TABLE = re.compile(
    rf"{_RULE}\n(?:(?!{_RULE}).*\n)+{_RULE}(?:\n(?:(?!{_RULE}|^$).*\n)+{_RULE})?", re.M
)


class Docstrings(griffe.Extension):
    """Translates the docstrings of everything that mkdocstrings renders."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str | None) -> str:
    """Return a docstring without roles, literal marks and simple tables of reStructuredText."""
    text = _TABLE.sub(_as_markdown, inspect.cleandoc(text or ""))
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`").replace("::\n", ":\n")


def with_code(text: str | None) -> str:
    """Return a module's docstring as Markdown, with its indented text and examples as code."""
    out: list[str] = []
    block: list[str] = []
    for line in [*plain(text).splitlines(), "end"]:
        if (line.startswith(("    ", ">>>")) and "|" not in line) or (block and not line.strip()):
            block.append(line)
            continue
        if block:
            out += ["", "```text", inspect.cleandoc("\n".join(block)).rstrip(), "```", ""]
            block = []
        out.append(line.strip() if line.lstrip().startswith("|") else line)
    return "\n".join(out[:-1])


def table(head: tuple[str, ...], rows: list[Any]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
    ]


def _as_markdown(match: re.Match[str]) -> str:
    rule, *lines = match[0].splitlines()
    indent = rule[: rule.index("=")]
    starts = [column.start() for column in re.finditer("=+", rule)]
    ends = [*(start - 1 for start in starts[1:]), None]
    rows: list[list[str]] = []
    for line in lines:
        if line.lstrip().startswith("=="):
            continue
        cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        if cells[0] or not rows:
            rows.append([cell.replace("|", "\\|") for cell in cells])
        else:  # the row goes on
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    has_head = sum(line.lstrip().startswith("==") for line in lines) == 2
    head, body = (rows[0], rows[1:]) if has_head else ([""] * len(starts), rows)
    return "\n".join(indent + line for line in table(tuple(head), body))
