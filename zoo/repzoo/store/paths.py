"""Valid paths in a repository: relative, and with the same meaning on every machine."""

from __future__ import annotations

import re
import unicodedata

from repzoo.errors import InvalidInput

__all__ = ["MAX_PATH_BYTES", "check_path"]

MAX_PATH_BYTES = 512
_MAX_SEGMENT_BYTES = 200
_MAX_DEPTH = 16

# Control characters, line separators, invisible and text-reversing characters, and lone surrogates.
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_DRIVE = re.compile(r"[A-Za-z]:")


def check_path(path: str) -> str:
    """Return a path if a repository may hold a file with it.

    Raises:
        InvalidInput: If the path is absolute, could lead out of the repository, is too long, or has
            invisible characters.
    """
    problem = _problem(path)
    if problem is not None:
        # Escaped, because the path may contain control sequences for a terminal.
        raise InvalidInput(f"{path[:80]!a} is not a valid path in a repository: {problem}")
    return path


def _problem(path: str) -> str | None:
    if any(unicodedata.category(character) in _UNSEEN for character in path[: MAX_PATH_BYTES + 1]):
        return "it has control characters"
    if len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        return f"it is longer than {MAX_PATH_BYTES} bytes"
    if "\\" in path:
        return "it has a backslash"
    if path.startswith("/") or _DRIVE.match(path):
        return "it is absolute"
    segments = path.split("/")
    if len(segments) > _MAX_DEPTH:
        return f"it is more than {_MAX_DEPTH} folders deep"
    for segment in segments:
        if segment in ("", ".", ".."):
            return f"it contains the part {segment!r}"
        if segment.casefold() == ".git":
            return "it is inside .git"
        if len(segment.encode()) > _MAX_SEGMENT_BYTES:
            return f"one part is longer than {_MAX_SEGMENT_BYTES} bytes"
    return None
