"""How people say which package they mean.

| text | what |
| --- | --- |
| ``NAME`` | the newest revision that the hub in use has |
| ``NAME@REVISION`` | a tag, a commit or 7 digits of it, or a manifest's sha256 or 7 of its digits |
| ``NAME@sha256:DIGEST`` | exactly these bytes, whoever serves them |
| ``hf://ORG/NAME[@REVISION]`` | the same on the Hugging Face Hub, or the endpoint in its place |
| ``https://HOST[:PORT]/ORG/NAME[@REVISION]`` | the same on a hub of that address |
| ``ALIAS[@REVISION]`` | what it stands for in ``catalogue.json``, see `repzoo.packages.names` |
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
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
    "no_such_package",
]

_NAME = re.compile(NAME_PATTERN)
_REVISION = re.compile(r"(?:sha256:)?[0-9a-f]{64}|[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# No user name or password: what is named here is shown, remembered and logged.
_HUB = re.compile(
    r"(?:hf:/|https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    r"/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
)

# Fewer digits than this could soon mean another revision too.
_SHORTEST = 7


class Reference(NamedTuple):
    """A package's name and, maybe, one of its revisions and the hub it is on."""

    name: str
    #: a ref such as ``main``, a sha256 or at least 7 digits that it starts with; None: the newest.
    revision: str | None = None
    #: ``hf://ORG`` or ``https://HOST[:PORT]/ORG``; None: whichever hub is in use.
    hub: str | None = None

    def __str__(self) -> str:
        name = self.name if self.hub is None else f"{self.hub}/{self.name}"
        return name if self.revision is None else f"{name}@{self.revision}"

    @classmethod
    def parse(cls, text: str, revision: str | None = None) -> Reference:
        """Parse any of the forms above; ``NAME@sha256:DIGEST`` is ``NAME@DIGEST``.

        An alias is replaced by what it stands for; a revision beside it is taken instead of its
        own.

        Args:
            text: what to parse.
            revision: the revision, if it is said apart.

        Raises:
            InvalidInput: if a part of it cannot be what it must, or two revisions are given.
        """
        whole, at, given = text.partition("@")
        hub, name = None, whole
        if is_url(text):
            hub, _, name = whole.rpartition("/")
            if _HUB.fullmatch(hub) is None:
                raise InvalidInput(
                    f"{text!r} is not a package on a hub, which is hf://ORG/NAME[@REV] or "
                    "http[s]://HOST[:PORT]/ORG/NAME[@REV]"
                )
        if not is_name(name):
            raise InvalidInput(
                f"{name!r} is not a model's name, which is of lower-case letters, digits and . _ -"
            )
        if at and revision is not None and given != revision:
            raise InvalidInput(f"two revisions: {text!r} and {revision!r}")
        if at:
            revision = given
        if revision is not None:
            if _REVISION.fullmatch(revision) is None:
                raise InvalidInput(f"{revision!r} is not a revision: a ref, or a sha256 in hex")
            revision = revision.removeprefix("sha256:")
        if hub is None and name in names().aliases:
            meant = cls.parse(names().aliases[name])
            return meant if revision is None else meant._replace(revision=revision)
        return cls(name, revision, hub)

    def hub_or(self, given: str | None) -> str | None:
        """The hub that is meant, said in the reference or beside it; None: whichever is in use.

        Raises:
            InvalidInput: if both are said and differ.
        """
        if self.hub is not None and given not in (None, self.hub):
            raise InvalidInput(f"{self} names its hub, and {given} is another")
        return self.hub or given


def is_name(text: str) -> bool:
    """Whether ``text`` can be a model's name, and so is safe as a file name."""
    return _NAME.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether ``text`` is a sha256 in lower-case hex, and so is safe as a file name."""
    return _DIGEST.fullmatch(text) is not None


def is_url(text: str) -> bool:
    """Whether ``text`` begins as an address does, ``hf://`` or ``https://`` or another."""
    return _URL.match(text) is not None


def is_path(text: str | os.PathLike[str]) -> bool:
    """Whether a package was given by its path: it has a separator, or is a package's folder."""
    if not isinstance(text, str):
        return True
    return not is_url(text) and (os.sep in text or is_package(text))


def no_such_package(where: str, name: str, known: Iterable[str]) -> ModelNotFound:
    """The error for a name that a hub does not have: it names those that are spelt alike.

    Args:
        where: what does not have it, such as a hub's spec.
        name: what was asked for.
        known: the names that are there.
    """
    return ModelNotFound(
        f"{where} has no package {name!r}; {did_you_mean(name, known)}see zoo list"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the names that are spelt alike and a space behind it; empty without any."""
    alike = difflib.get_close_matches(name, {*known}, n=3)
    return f"did you mean {' or '.join(alike)}? " if alike else ""


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
