"""Errors of a store's disk as `HubError`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from repzoo.errors import HubError, RepzooError

__all__ = ["as_hub_error"]


@contextmanager
def as_hub_error(where: str) -> Iterator[None]:
    """Turn disk errors and content that cannot be parsed into a `HubError`.

    Args:
        where: The store, for errors that do not name a file.
    """
    try:
        yield
    except RepzooError:
        raise
    except OSError as error:
        place = os.fsdecode(error.filename) if error.filename else where
        raise HubError(f"{place}: {error.strerror or error}") from error
    except (KeyError, RecursionError, TypeError, UnicodeDecodeError, ValueError) as error:
        raise HubError(f"{where}: the store is damaged: {error}") from error
