"""References: how users name a package.

| text | meaning |
| --- | --- |
| ``NAME`` | the newest revision on the current hub |
| ``NAME@REVISION`` | a tag, a commit, a manifest's sha256, or at least 7 digits of the last two |
| ``NAME@sha256:DIGEST`` | exactly this content, from any hub |
| ``hf://ORG/NAME[@REVISION]`` | a package on the Hugging Face Hub, or on ``HF_ENDPOINT`` |
| ``https://HOST[:PORT]/ORG/NAME[@REVISION]`` | a package on the hub at that address |
| ``ALIAS[@REVISION]`` | an alias in ``catalogue.json``, see `repzoo.packages.names` |
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from repzoo.errors import InvalidInput, ModelNotFound
from repzoo.packages.config import NAME_PATTERN
from repzoo.packages.names import names
from repzoo.packages.package import is_package

__all__ = [
    "Reference",
    "did_you_mean",
    "is_digest",
    "is_name",
    "is_path",
    "is_url",
    "match_revision",
    "naming_folder",
    "no_such_package",
]

_NAME = re.compile(NAME_PATTERN)
_REVISION = re.compile(r"(?:sha256:)?[0-9a-f]{64}|[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# No user name or password: hub names are printed, stored and logged.
_HUB = re.compile(
    r"(?:hf:/|https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    r"/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
)

# Fewer digits would soon be ambiguous.
_SHORTEST = 7


class Reference(NamedTuple):
    """A package's name, optionally with a revision and a hub."""

    name: str
    #: A ref such as ``main``, a sha256, or at least its first 7 digits. None means the newest.
    revision: str | None = None
    #: ``hf://ORG`` or ``https://HOST[:PORT]/ORG``. None means the current hub.
    hub: str | None = None

    def __str__(self) -> str:
        name = self.name if self.hub is None else f"{self.hub}/{self.name}"
        return name if self.revision is None else f"{name}@{self.revision}"

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> Reference:
        """Parse any of the forms above. ``NAME@sha256:DIGEST`` becomes ``NAME@DIGEST``.

        An alias is replaced by its reference. A revision given with the alias takes precedence over
        the reference's own.

        Args:
            text: The text to parse.
            revision: The revision, if it is not part of the text.

        Raises:
            InvalidInput: If a part is malformed or two different revisions are given.
        """
        whole, at, given = text.partition("@")
        hub, name = None, whole
        if is_url(text):
            hub, _, name = whole.rpartition("/")
            if _HUB.fullmatch(hub) is None:
                raise InvalidInput(
                    f"{text!r} does not name a package on a hub: expected hf://ORG/NAME[@REV] or "
                    "http[s]://HOST[:PORT]/ORG/NAME[@REV]"
                )
        if not is_name(name):
            raise InvalidInput(
                f"{name!r} is not a valid model name: expected lower-case letters, digits, . _ -"
            )
        if at and revision is not None and given != revision:
            raise InvalidInput(f"two different revisions: {text!r} and {revision!r}")
        if at:
            revision = given
        if revision is not None:
            if _REVISION.fullmatch(revision) is None:
                raise InvalidInput(
                    f"{revision!r} is not a valid revision: expected a tag, a commit or a sha256"
                )
            revision = revision.removeprefix("sha256:")
        if hub is None and name in names().aliases:
            meant = cls.parse(names().aliases[name])
            return meant if revision is None else meant._replace(revision=revision)
        return cls(name, revision, hub)

    def hub_or(self, given: str | None) -> str | None:
        """Return the reference's hub or the ``given`` one. None means the current hub.

        Raises:
            InvalidInput: If the two differ.
        """
        if self.hub is not None and given not in (None, self.hub):
            raise InvalidInput(f"{self} names its own hub, but {given} was given too")
        return self.hub or given


def is_name(text: str) -> bool:
    """Whether ``text`` is a valid model name, which is also safe as a file name."""
    return _NAME.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether ``text`` is a sha256 in lower-case hex, which is also safe as a file name."""
    return _DIGEST.fullmatch(text) is not None


def is_url(text: str) -> bool:
    """Whether ``text`` starts with a URL scheme such as ``hf://`` or ``https://``."""
    return _URL.match(text) is not None


def is_path(text: str | os.PathLike[str], *, named: bool = False) -> bool:
    """Whether ``text`` is a path: it contains a separator or is the folder of a package.

    Args:
        text: A name or a path.
        named: Whether a word without a separator is a name even if a folder is called so, because
            a hub or a revision was given with it.
    """
    if not isinstance(text, str):
        return True
    return not is_url(text) and (os.sep in text or (not named and is_package(text)))


@contextmanager
def naming_folder(text: str) -> Iterator[None]:
    """If the name ``text`` is not found, say how to name the folder that is called so, if any."""
    try:
        yield
    except ModelNotFound as error:
        if not is_package(text):
            raise
        raise ModelNotFound(f"{error}; for the folder, write ./{text}") from error


def no_such_package(where: str, name: str, known: Iterable[str]) -> ModelNotFound:
    """Return the error for an unknown package, which suggests similar names.

    Args:
        where: The place that was searched, such as a hub's spec.
        name: The name that was requested.
        known: The names that exist.
    """
    return ModelNotFound(
        f"{where} has no package {name!r}; {did_you_mean(name, known)}see zoo list"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean X or Y? "``, or an empty string if no name is similar."""
    alike = difflib.get_close_matches(name, {*known}, n=3)
    return f"did you mean {' or '.join(alike)}? " if alike else ""


def match_revision(revision: str, known: Iterable[str], where: str) -> str:
    """Return the ``known`` revision that equals or starts with ``revision``.

    Args:
        revision: A sha256 in hex, or its first digits.
        known: The revisions to choose from.
        where: The owner of the revisions, for the error.

    Raises:
        ModelNotFound: If no revision matches, or more than one.
    """
    matches = {each for each in known if each.startswith(revision)}
    if len(revision) < _SHORTEST or not matches:
        raise ModelNotFound(f"{where} has no revision {revision!r}")
    if len(matches) > 1:
        raise ModelNotFound(
            f"{where} has several revisions that start with {revision!r}: give more digits"
        )
    return matches.pop()
