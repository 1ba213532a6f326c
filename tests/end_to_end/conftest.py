"""What tests of documents share: the environment's commands, and the comparison of outputs."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e-?\d+)?")
REVISION = re.compile(r"\b[0-9a-f]{12,64}\b")


@pytest.fixture(scope="session")
def same() -> Callable[[str, str], bool]:
    """``same(shown, printed)``: whether a document shows what a command printed.

    Numbers may differ a little, a revision is any revision, and ``...`` stands for anything.
    """

    def compare(shown: str, printed: str) -> bool:
        shown, printed = REVISION.sub("@", shown), REVISION.sub("@", printed)
        parts = re.split(r"\s*\.\.\.\s*", NUMBER.sub("#", shown).strip())
        pattern = ".*".join(map(re.escape, parts))
        wanted, found = ([float(x) for x in NUMBER.findall(text)] for text in (shown, printed))
        if "..." not in shown and wanted != pytest.approx(found, rel=0.02, abs=1e-3):
            return False
        return re.fullmatch(pattern, NUMBER.sub("#", printed).strip(), re.DOTALL) is not None

    return compare
