"""Open a hub by its address, and find the default one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from repzoo.errors import HubError, ModelNotFound
from repzoo.hub import Hub
from repzoo.hubs.flat import FlatHub
from repzoo.hubs.huggingface import HuggingFaceHub
from repzoo.packages.bundled import bundled_folder
from repzoo.packages.names import names
from repzoo.packages.package import MANIFEST, is_package
from repzoo.packages.reference import did_you_mean, is_url
from repzoo.progress import say
from repzoo.retries import within
from repzoo.store.store import Store, is_store

__all__ = ["Ask", "default_hub", "hub_of", "hub_spec", "open_hub"]

T = TypeVar("T")

#: Time in which the public organisation must answer for a name that may be a typing error.
_LAST_RESORT_SECONDS = 10.0


class Ask(Protocol):
    """Calls a function that asks a hub, and returns its result."""

    def __call__(self, action: Callable[[], T], /) -> T: ...


def open_hub(spec: str | os.PathLike[str] | None = None, name: str | None = None) -> Hub:
    """Open a hub.

    Args:
        spec: A folder, ``hf://ORG`` or ``https://HOST/ORG``; None for the default hub, see
            `default_hub`.
        name: The package that is wanted from it, if it is a single one.

    Raises:
        HubError: If the hub does not exist, or this version cannot read it.
    """
    if spec is None:
        spec = default_hub(name)
    text = os.fspath(spec)
    if not text:
        raise HubError("the hub name is empty; expected a folder, hf://ORG or https://HOST/ORG")
    if is_url(text):
        return HuggingFaceHub.parse(text)
    path = Path(text)
    if not path.is_dir():
        raise HubError(f"{text}: no such folder")
    if is_store(path):
        return Store(path)
    if is_package(path):
        raise HubError(f"{text} is a package, not a hub; expected the folder that contains it")
    return FlatHub(path)


@contextmanager
def hub_of(
    name: str, spec: str | None, cached: Callable[[], Iterable[str]]
) -> Iterator[tuple[Hub, Ask | None]]:
    """Open the hub that is asked about a package: the named one or the default one.

    If that is the public organisation, the last resort, the name may be a typing error. Then the
    names that repzoo knows are suggested, also by errors.

    Args:
        name: The package.
        spec: The hub's address; None for the default hub.
        cached: Returns the names of cached packages.

    Yields:
        The hub, and how to ask it: once and for a few seconds if it is the last resort, otherwise
        None.

    Raises:
        HubError: As `open_hub` does.
    """
    hub = open_hub(spec, name)
    if spec is not None or default_hub(name) != names().organisation:
        yield hub, None
        return
    known = [*names().aliases, *_names_below(bundled_folder()), *cached()]
    about = f"{name} is neither bundled nor cached; {did_you_mean(name, known)}"
    say("%sasking %s", about, hub.spec)
    try:
        yield hub, partial(within, _LAST_RESORT_SECONDS, hub.spec)
    except (HubError, ModelNotFound) as error:
        error.args = (f"{about}{error}",)
        raise


def hub_spec(spec: str | os.PathLike[str] | None = None) -> str:
    """Return the `Hub.spec` of a hub without opening it, so the hub need not exist any more.

    Raises:
        HubError: If the address is not valid for a hub.
    """
    text = os.fspath(default_hub() if spec is None else spec)
    return HuggingFaceHub.parse(text).spec if is_url(text) else str(Path(text).absolute())


def default_hub(name: str | None = None) -> str:
    """Return the hub to use if none is named: the first of these.

    1. ``REPZOO_HUB``;
    2. the checkout's ``zoo/bundled``, or the packages in the wheel;
    3. the catalogue's organisation, for a package ``name`` that is not bundled.

    Raises:
        HubError: If there is no hub.
    """
    named = os.environ.get("REPZOO_HUB")
    if named:
        return named
    bundled = bundled_folder()
    if name is not None and not is_package(bundled / name):
        return names().organisation
    if not bundled.is_dir():
        raise HubError(f"no hub: {bundled} does not exist; name a hub with --hub or REPZOO_HUB")
    return str(bundled)


def _names_below(folder: Path) -> list[str]:
    return [path.parent.name for path in folder.glob(f"*/{MANIFEST}")]
