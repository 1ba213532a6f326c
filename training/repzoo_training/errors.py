"""Errors of training that are the user's to mend; they print as one line.

RepzooError
├── DataError    (ValueError)     a source of images that cannot be used as it is
├── RecipeError  (ValueError)     a recipe that does not exist or does not hold together
├── RunError     (RuntimeError)   a run folder that cannot be trained on, resumed or read
└── Diverged     (RuntimeError)   a loss that is no longer a number
"""

from __future__ import annotations

from repzoo.errors import RepzooError

__all__ = ["DataError", "Diverged", "RecipeError", "RunError"]


class DataError(RepzooError, ValueError):
    """A source of images cannot be used as it is; the message names what and where."""


class RecipeError(RepzooError, ValueError):
    """A recipe does not exist, or its settings do not hold together."""


class RunError(RepzooError, RuntimeError):
    """A run folder cannot be trained on, resumed or read; the message says what it holds."""


class Diverged(RepzooError, RuntimeError):
    """The loss is no longer a finite number; the last checkpoint is from before."""
