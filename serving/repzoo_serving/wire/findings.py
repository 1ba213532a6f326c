"""What is wrong with a request, in words: pydantic's findings are about Python, not about JSON."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

__all__ = ["describe"]

#: Findings of which an error lists the first few.
_MOST = 3
#: Characters of a value that an error quotes.
_LONGEST = 40

#: What was expected, by the beginning of the finding's type. Values in braces are pydantic's.
_EXPECTED = {
    "string_": "text",
    "int_": "a whole number",
    "float_": "a number",
    "bool_": "true or false",
    "list_": "a list",
    "dict_": "an object",
    "model_": "an object",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
}


def describe(error: ValidationError, known: Collection[str], prefix: str = "") -> str:
    """Return the first few findings in one line: where, what was expected, and what was there.

    Args:
        error: The findings.
        known: The names of all fields, for errors about unknown ones.
        prefix: Where the checked value is in the request.
    """
    findings = error.errors(include_url=False)
    lines = []
    lists_fields = False
    for finding in findings[:_MOST]:
        place = prefix
        for step in finding["loc"]:
            place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else step
        lines.append(f"{place or 'the body'}: {_problem(finding)}")
        if finding["type"] == "extra_forbidden":
            alike = _alike(place, known)
            lines[-1] += alike
            lists_fields |= not alike
    if len(findings) > _MOST:
        lines.append(f"and {len(findings) - _MOST} more")
    if lists_fields:
        lines.append(f"the fields are {', '.join(known)}")
    return "; ".join(lines)


def _problem(finding: Mapping[str, Any]) -> str:
    kind, context, value = finding["type"], finding.get("ctx", {}), finding["input"]
    if kind == "missing":
        return "required"
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "value_error":
        return str(context["error"])
    for beginning, expected in _EXPECTED.items():
        if kind.startswith(beginning):
            words = {name: _plain(value) for name, value in context.items()}
            hint = ""
            if kind == "literal_error" and isinstance(value, str):
                hint = _alike(value, re.split(", | or ", words["expected"]))
            return f"expected {expected.format_map(words)}, got {_quoted(value)}{hint}"
    return str(finding["msg"])


def _alike(name: str, known: Collection[str]) -> str:
    alike = difflib.get_close_matches(name[:_LONGEST].lower(), known, n=1)
    return f"; did you mean {alike[0]}?" if alike else ""


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("'", "")


def _quoted(value: Any) -> str:
    """Return a value of the request as JSON, or what it is if it would be long."""
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{json.dumps(value[:_LONGEST], ensure_ascii=False)}..."
    if isinstance(value, int) and abs(value) >= 10**_LONGEST:
        return "a longer number"
    return json.dumps(value, ensure_ascii=False, default=repr)
