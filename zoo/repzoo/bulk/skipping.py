"""How many bad files may be skipped: one policy for `zoo train`, `zoo embed` and `zoo index build`.

Images that cannot be read are skipped, counted and listed by `left_out`, and the exit status is 3.
If they are more than ``--max-skipped`` of all images, the command fails with status 1 instead.
``--strict`` allows none. The options are `repzoo.commands.arguments.skipping_options`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LISTED", "MAX_SKIPPED", "bad_files", "left_out", "listed", "may_skip"]

#: The share of images that may be skipped by default. One image always may.
MAX_SKIPPED = 0.05

#: How many bad files a message lists; the others are counted.
LISTED = 5


def may_skip(count: int, share: float) -> int:
    """Return how many of ``count`` images may be skipped: none if ``share`` is 0, at least one."""
    return max(1, int(share * count)) if share else 0


def bad_files(bad: int, count: int, share: float, reasons: Sequence[str]) -> str | None:
    """Return an error message if more images are bad than may be skipped, or None.

    Args:
        bad: The number of images that cannot be read.
        count: The number of all images.
        share: The share of them that may be skipped.
        reasons: The paths of the first few bad images, and what is wrong with each.
    """
    allowed = may_skip(count, share)
    if bad <= allowed:
        return None
    limit = f" (at most {allowed:,} may be skipped, see --max-skipped)" if allowed else ""
    return listed(f"{bad:,} of {count:,} images cannot be read{limit}", reasons, bad)


def left_out(bad: int, count: int, reasons: Sequence[str], rest: str = "") -> str:
    """Return the message about skipped images, the same for every command; empty if there are none.

    Args:
        bad: The number of images that cannot be read.
        count: The number of all images.
        reasons: The paths of the first few bad images, and what is wrong with each.
        rest: Where the others are listed.
    """
    found = f"images skipped because they cannot be read ({bad:,} of {count:,})"
    return listed(found, reasons, bad, rest) if bad else ""


def listed(found: str, reasons: Sequence[str], count: int, rest: str = "") -> str:
    """Return a message that lists the first few of ``count`` problems, one per line."""
    shown = [f"\n  {reason}" for reason in reasons[:LISTED]]
    text = f"{found}:{''.join(shown)}"
    if more := count - len(shown):
        text += f"\n  and {more:,} more" + (f"; {rest}" if rest else "")
    return text
