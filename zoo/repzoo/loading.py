"""`repzoo.load`: from a name or a path to a running encoder, by way of a verified package."""

from __future__ import annotations

import logging
import os
from contextlib import suppress

from repzoo.admission.first_load import admit
from repzoo.cache.cache import Cache
from repzoo.errors import (
    HubError,
    IntegrityError,
    InvalidInput,
    ModelNotFound,
    Offline,
    RepzooError,
)
from repzoo.hubs.opening import default_hub
from repzoo.packages.names import names
from repzoo.packages.package import Package
from repzoo.packages.reference import Reference, is_path
from repzoo.retries import Patience
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.sessions import Provider

__all__ = ["find", "load"]

_log = logging.getLogger("repzoo")

_BRIEF = Patience(attempts=2, first=0.5, limit=5.0)


def load(
    name_or_path: str | os.PathLike[str],
    *,
    hub: str | None = None,
    revision: str | None = None,
    provider: Provider | None = None,
    threads: int | None = None,
) -> Encoder:
    """Load a model: by name, pulled into the cache if it is not there, or from a package's folder.

    Every file is verified before it is used, and what is loaded for the first time is run in a
    process with limits before, see `repzoo.admission.first_load`. If the hub cannot be reached, or is the
    default one and does not have the model, the revision that was pulled last is taken from the
    cache.

        >>> encoder = repzoo.load("simvae-mnist")
        >>> encoder = repzoo.load("hf://org/simvae-celeba@v2")
        >>> encoder = repzoo.load("runs/mine/package", provider="cpu")

    Args:
        name_or_path: ``NAME``, ``NAME@REVISION`` or ``hf://ORG/NAME@REVISION``; or a path, which
            has a separator in it or is a folder with a ``manifest.json``.
        hub: a hub's folder, ``hf://ORG`` or ``https://HOST/ORG``; by default the one of
            ``REPZOO_HUB`` or the bundled one.
        revision: another way to say ``@REVISION``.
        provider: "cpu" or "cuda"; by default CUDA where a GPU and its libraries work.
        threads: threads that one call may use; by default as many as the machine has cores.

    Raises:
        ModelNotFound: if there is no such model or revision.
        HubError: if the hub cannot be read and the cache does not have the model.
        IntegrityError: if files are bad, and cannot be replaced by good ones.
        PackageError: if the package is not a valid one.
        InvalidInput: if an argument cannot be used.
    """
    package = find(name_or_path, hub=hub, revision=revision)
    return Encoder(
        package.path,
        package.config,
        revision=package.revision,
        provider=provider,
        threads=threads,
    )


def find(
    name_or_path: str | os.PathLike[str], *, hub: str | None = None, revision: str | None = None
) -> Package:
    """The verified package that `load` would load, with the same arguments and errors."""
    if is_path(name_or_path):
        if hub is not None or revision is not None:
            raise InvalidInput(f"{os.fspath(name_or_path)} is a path: it has no hub or revision")
        package = Package.open(name_or_path)
        package.verify()
    else:
        package = _pull_or_find(Reference.parse(os.fspath(name_or_path), revision), hub)
    admit(package)
    return package


def _pull_or_find(reference: Reference, hub: str | None) -> Package:
    cache = Cache()
    named = hub or reference.hub
    there = _is_cached(cache, reference, named)
    if there and named is None and default_hub(reference.name) == names().organisation:
        # It is here, from whichever hub; the last resort is for names that nobody has.
        package = cache.find(reference)
        with suppress(IntegrityError):  # which the hub that it came from can mend
            package.verify()
            return package
    try:
        # With something to fall back on, a hub that is gone is not waited for.
        patience = _BRIEF if there else None
        return cache.pull(reference, hub, asking=patience).package
    except (HubError, ModelNotFound) as error:
        if named is not None and isinstance(error, ModelNotFound):
            raise
        try:
            # From another hub it would not be what was asked for.
            package = cache.find(reference, hub)
        except (ModelNotFound, HubError):
            raise error from None
        package.verify()
        # Not in the default hub is how models pulled from another hub always are.
        expected = isinstance(error, (ModelNotFound, Offline))
        level = logging.INFO if expected else logging.WARNING
        _log.log(level, "%s; using the cached revision %s", error, package.revision[:12])
        return package


def _is_cached(cache: Cache, reference: Reference, hub: str | None) -> bool:
    try:
        cache.find(reference, hub)
    except (RepzooError, OSError):
        return False
    return True
