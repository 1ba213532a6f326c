"""``NAME`` and ``NAME@REVISION``: how people say which package they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from repzoo.config import NAME_PATTERN
from repzoo.errors import InvalidInput, ModelNotFound
from repzoo.package import is_package

__all__ = ["Reference", "is_digest", "is_name", "is_path", "match_revision"]

_NAME = re.compile(NAME_PATTERN)
_REVISION = re.compile(r"(?:sha256:)?[0-9a-f]{64}|[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


# Fewer digits than this could soon mean another revision too.
_SHORTEST = 7


class Reference(NamedTuple):
    """A package's name and, maybe, one of its revisions."""

    name: str
    #: a ref such as ``main``, a sha256 or at least 7 digits that it starts with; None: the newest.
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> Reference:
        """Parse ``NAME`` or ``NAME@REVISION``; ``NAME@sha256:DIGEST`` is ``NAME@DIGEST``.

        Args:
            text: what to parse.
            revision: the revision, if it is said apart.

        Raises:
            InvalidInput: if the name or the revision cannot be one, or two revisions are given.
        """
        name, at, given = text.partition("@")
        if not is_name(name):
            raise InvalidInput(
                f"{name!r} is not a model's name, which is of lower-case letters, digits and . _ -"
            )
        if at and revision is not None and given != revision:
            raise InvalidInput(f"two revisions: {text!r} and {revision!r}")
        if at:
            revision = given
        if revision is None:
            return cls(name)
        if _REVISION.fullmatch(revision) is None:
            raise InvalidInput(f"{revision!r} is not a revision: a ref, or a sha256 in hex")
        return cls(name, revision.removeprefix("sha256:"))


def is_name(text: str) -> bool:
    """Whether ``text`` can be a model's name, and so is safe as a file name."""
    return _NAME.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether ``text`` is a sha256 in lower-case hex, and so is safe as a file name."""
    return _DIGEST.fullmatch(text) is not None


def is_path(text: str | os.PathLike[str]) -> bool:
    """Whether a package was given by its path: it has a separator, or is a package's folder."""
    return not isinstance(text, str) or os.sep in text or is_package(text)


def match_revision(revision: str, known: Iterable[str], where: str) -> str:
    """The one of the ``known`` revisions that is or starts with ``revision``.

    Args:
        revision: a sha256 in hex, or its start.
        known: the revisions to choose from.
        where: whose they are, for the error.

    Raises:
        ModelNotFound: if none of them does, or more than one.
    """
    matches = {each for each in known if each.startswith(revision)}
    if len(revision) < _SHORTEST or not matches:
        raise ModelNotFound(f"{where} has no revision {revision!r}")
    if len(matches) > 1:
        raise ModelNotFound(f"{where} has several revisions that start with {revision!r}")
    return matches.pop()
