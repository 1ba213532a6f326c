"""The hub protocol: which packages there are, which revisions of them, and their bytes.

| kind | module |
| --- | --- |
| flat folder | `repzoo.hubs.flat`: any folder of packages; read-only, one revision each |
| store | `repzoo.store`: made by ``zoo hub init``; keeps every published revision |
| ``hf://ORG`` | `repzoo.hubs.huggingface`: an organisation or user on huggingface.co |
| ``https://HOST/ORG`` | the same module: another server of that API, such as `zoo hub serve` |

A hub is not trusted: `repzoo.cache` checks names, sizes and sha256 of everything it reads.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from io import BufferedIOBase
from typing import NamedTuple, Protocol, runtime_checkable

from repzoo.packages.package import Package

__all__ = ["Hub", "Published", "WritableHub"]


class Hub(Protocol):
    """What every kind of hub answers. Revisions are called by their commit.

    In a folder the commit is the sha256 of the manifest; another kind may have names of its own.

    All methods raise `HubError` if the hub cannot be read, `HubUnavailable` where that may pass.
    All that take a name raise `ModelNotFound` if there is no such package or commit.
    """

    @property
    def spec(self) -> str:
        """What opens this hub again, as given to ``--hub``."""

    def names(self) -> list[str]:
        """The names of its packages, sorted."""

    def revisions(self, name: str) -> list[str]:
        """The commits of a package, the newest first."""

    def resolve(self, name: str, revision: str | None = None) -> str:
        """The commit that a revision means; None and ``main`` mean the newest.

        Else it is a tag, a commit, the sha256 of a manifest, or 7 or more digits that one of the
        last two starts with.
        """

    def manifest(self, name: str, commit: str) -> bytes:
        """The bytes of ``manifest.json``."""

    def open(
        self, name: str, commit: str, file: str, start: int = 0
    ) -> AbstractContextManager[BufferedIOBase]:
        """The bytes of another file, by its path in the package, from byte ``start`` on."""

    def signature(self, name: str, commit: str) -> bytes | None:
        """The bytes of the signature, ``manifest.json.sig``; None if it is not signed."""

    def tags(self, name: str) -> dict[str, str]:
        """The commit of every tag."""


class Published(NamedTuple):
    """What came of publishing a package."""

    name: str
    #: the sha256 of its manifest.
    revision: str
    #: what the hub calls the state that holds it.
    commit: str
    #: False if it was the newest revision already.
    new: bool


@runtime_checkable
class WritableHub(Hub, Protocol):
    """A hub that packages can be published to."""

    def publish(
        self,
        package: Package,
        *,
        message: str | None = None,
        tag: str | None = None,
        private: bool = False,
    ) -> Published:
        """Add a package's files as the newest revision of its name, all of them or nothing.

        Args:
            package: what to publish; it is verified first.
            message: what the hub's history is to say of it.
            tag: a name that this revision is to have for good.
            private: whether a package that is new on the hub is not for everyone.

        Raises:
            IntegrityError: if the package's files are not those of its manifest.
            PackageError: if its config is not valid.
            HubError: if the hub cannot be written, or has this tag on another revision.
        """
