"""Hubs: which packages there are, which revisions of them, and their bytes.

| kind | what |
| --- | --- |
| flat folder (`repzoo.hubs.flat`) | any folder of packages; read-only, one revision each |
| store (`repzoo.hubs.store`) | made by ``zoo hub init``; `publish` writes here, revisions stay |
| ``hf://ORG`` (`repzoo.hubs.huggingface`) | an organisation or user on huggingface.co |
| ``https://HOST/ORG`` (the same) | another server of the same API, such as `zoo hub serve` |

A hub is not trusted: whoever reads from one checks names, sizes and sha256, see `repzoo.cache`.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from repzoo.bundled import bundled_folder
from repzoo.errors import HubError
from repzoo.names import names
from repzoo.package import MANIFEST, Package, is_package
from repzoo.progress import say
from repzoo.reference import did_you_mean, is_url

__all__ = ["Hub", "Published", "WritableHub", "default_hub", "hub_spec", "open_hub"]


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


def open_hub(spec: str | os.PathLike[str] | None = None, name: str | None = None) -> Hub:
    """Open the hub ``spec``; None opens the default one, see `default_hub`.

    Args:
        spec: a folder, ``hf://ORG`` or ``https://HOST/ORG``.
        name: the package that is wanted from it, where it is one.

    Raises:
        HubError: if there is no such hub, or this version cannot read it.
    """
    # Each kind imports this package for the protocol's sake.
    from repzoo.hubs.flat import FlatHub
    from repzoo.hubs.huggingface import HuggingFaceHub
    from repzoo.hubs.store import Store, is_store

    if spec is None:
        spec = default_hub(name)
        if name is not None and spec == names().organisation:
            meant = did_you_mean(name, [*names().aliases, *_names_below(bundled_folder())])
            say("%s is not among the bundled packages; %sasking %s", name, meant, spec)
    text = os.fspath(spec)
    if not text:
        raise HubError("a hub is named by nothing; expected a folder, hf://ORG or https://HOST/ORG")
    if is_url(text):
        return HuggingFaceHub.parse(text)
    path = Path(text)
    if not path.is_dir():
        raise HubError(f"{text}: there is no such folder")
    if is_store(path):
        return Store(path)
    if is_package(path):
        raise HubError(f"{text} is a package; a hub is the folder that packages lie in")
    return FlatHub(path)


def hub_spec(spec: str | os.PathLike[str] | None = None) -> str:
    """The `Hub.spec` that the hub ``spec`` has, or had: nothing is opened.

    Raises:
        HubError: if it looks like an address, and is none of a hub.
    """
    from repzoo.hubs.huggingface import HuggingFaceHub

    text = os.fspath(default_hub() if spec is None else spec)
    return HuggingFaceHub.parse(text).spec if is_url(text) else str(Path(text).absolute())


def default_hub(name: str | None = None) -> str:
    """The hub for whoever names none: the first of these.

    1. ``REPZOO_HUB``;
    2. a checkout's ``zoo/bundled``, or the packages that the wheel carries;
    3. the catalogue's organisation, for the package ``name`` where the former does not have it.

    Raises:
        HubError: if there is none.
    """
    named = os.environ.get("REPZOO_HUB")
    if named:
        return named
    bundled = bundled_folder()
    if name is not None and not is_package(bundled / name):
        return names().organisation
    if not bundled.is_dir():
        raise HubError(f"there is no hub: {bundled} is not there; name one by --hub or REPZOO_HUB")
    return str(bundled)


def _names_below(folder: Path) -> list[str]:
    return [path.parent.name for path in folder.glob(f"*/{MANIFEST}")]
