"""Errors of training that the user can fix; each is printed as one line.

RepzooError
├── DataError    (ValueError)     images that cannot be loaded
├── RecipeError  (ValueError)     a recipe that does not exist or is inconsistent
├── RunError     (RuntimeError)   a run folder that cannot be trained in, resumed or read
└── Diverged     (RuntimeError)   a loss or weights that are no longer finite
"""

from __future__ import annotations

from pydantic import ValidationError
from repzoo.errors import RepzooError

__all__ = ["DataError", "Diverged", "RecipeError", "RunError", "problems"]


class DataError(RepzooError, ValueError):
    """The images of a source cannot be loaded; the message says which file and why."""


class RecipeError(RepzooError, ValueError):
    """A recipe does not exist, or its settings are inconsistent."""


class RunError(RepzooError, RuntimeError):
    """A run folder cannot be trained in, resumed or read; the message says why."""


class Diverged(RepzooError, RuntimeError):
    """The loss or a weight is no longer finite; the last checkpoint is still valid."""


def problems(error: ValidationError) -> str:
    """Return the settings that are not valid, and why, in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
