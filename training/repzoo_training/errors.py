"""Errors of training that are the user's to mend; they print as one line."""

from __future__ import annotations

from repzoo.errors import RepzooError

__all__ = ["DataError"]


class DataError(RepzooError, ValueError):
    """A source of images cannot be used as it is; the message names what and where."""
