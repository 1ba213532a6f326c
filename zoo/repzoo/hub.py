"""The hub protocol: which packages exist, in which revisions, and their bytes.

| kind | module |
| --- | --- |
| flat folder | `repzoo.hubs.flat`: any folder of packages; read-only, one revision per package |
| store | `repzoo.store`: made by ``zoo hub init``; keeps every published revision |
| ``hf://ORG`` | `repzoo.hubs.huggingface`: an organisation or user on huggingface.co |
| ``https://HOST/ORG`` | the same module: another server with that API, such as `zoo hub serve` |

Hubs are not trusted: `repzoo.cache` checks the names, sizes and SHA-256 of everything it reads.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from io import BufferedIOBase
from typing import NamedTuple, Protocol, runtime_checkable

from repzoo.packages.package import Package

__all__ = ["Hub", "Published", "WritableHub"]


class Hub(Protocol):
    """The methods of every kind of hub.

    Revisions are identified by their commit. In a flat folder the commit is the SHA-256 of the
    manifest; other kinds may use other names.

    All methods raise `HubError` if the hub cannot be read, and `HubUnavailable` if a later attempt
    may succeed. Methods that take a name raise `ModelNotFound` if the package or commit does not
    exist.
    """

    @property
    def spec(self) -> str:
        """The address of this hub, as given to ``--hub``."""

    def names(self) -> list[str]:
        """Return the names of its packages, sorted."""

    def revisions(self, name: str) -> list[str]:
        """Return the commits of a package, newest first."""

    def resolve(self, name: str, revision: str | None = None) -> str:
        """Return the commit that a revision means.

        Args:
            name: The package.
            revision: A tag, a commit, the SHA-256 of a manifest, or at least 7 leading digits of
                one of the last two. None and ``main`` mean the newest commit. The SHA-256 of a
                manifest means the newest commit that also has the manifest's files.
        """

    def manifest(self, name: str, commit: str) -> bytes:
        """Return the bytes of ``manifest.json``."""

    def open(
        self, name: str, commit: str, file: str, start: int = 0
    ) -> AbstractContextManager[BufferedIOBase]:
        """Open another file, by its path in the package, at byte ``start``."""

    def signature(self, name: str, commit: str) -> bytes | None:
        """Return the bytes of ``manifest.json.sig``, or None if the package is not signed."""

    def tags(self, name: str) -> dict[str, str]:
        """Return the commit of every tag."""


class Published(NamedTuple):
    """The result of publishing a package."""

    name: str
    #: The SHA-256 of its manifest.
    revision: str
    #: The commit that holds the package on the hub.
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
        """Add a package as the newest revision of its name, completely or not at all.

        Args:
            package: The package, which is verified first.
            message: A description for the hub's history.
            tag: A permanent name for this revision.
            private: Make the repository private if it is new.

        Raises:
            IntegrityError: If the package's files do not match its manifest.
            PackageError: If its config is not valid.
            HubError: If the hub cannot be written, or another revision has the tag.
        """
