"""References to models to serve: names or folders, with optional aliases, and files of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from repzoo.errors import InvalidInput
from repzoo.packages.config import NAME_PATTERN
from repzoo.packages.reference import is_path

__all__ = ["read_references", "relative_to", "split_alias"]


def split_alias(reference: str) -> tuple[str | None, str]:
    """Return the alias, or None, and the rest of ``NAME``, ``ALIAS=NAME``, ``ALIAS=FOLDER`` etc.

    Raises:
        InvalidInput: If the alias is not a name, or nothing follows it.
    """
    alias, separator, rest = reference.partition("=")
    if not separator or os.sep in alias or ":" in alias:  # a path or a URL
        return None, reference
    if not re.fullmatch(NAME_PATTERN, alias) or not rest:
        raise InvalidInput(
            f"{reference[:200]!a}: expected ALIAS=NAME, with an alias of lower-case letters, "
            "digits, '.', '_' and '-'"
        )
    return alias, rest


def read_references(path: Path) -> tuple[list[str], bool]:
    """Read a file that lists models to serve: one reference per line, ``#`` begins a comment.

    Each may have an alias. Folders are relative to the file's folder, and need a separator, as in
    ``./NAME``.

    Returns:
        The references, and whether the last line is complete, that is, ends with a newline.

    Raises:
        InvalidInput: If the file cannot be read.
    """
    try:
        # Bytes that are not UTF-8 only affect their own line.
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    references = [line.partition("#")[0].strip() for line in text.splitlines()]
    unique = dict.fromkeys(relative_to(path.parent, each) for each in references if each)
    return list(unique), text.endswith("\n")


def relative_to(folder: Path, reference: str) -> str:
    """Return a reference such that a path in it is relative to ``folder``."""
    try:
        alias, rest = split_alias(reference)
    except InvalidInput:
        return reference  # loading it fails, and is reported
    if not is_path(rest, named=True):
        return reference
    return str(folder / rest) if alias is None else f"{alias}={folder / rest}"
