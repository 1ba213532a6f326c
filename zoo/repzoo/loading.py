"""`repzoo.load`: from a name or path to a verified package to a running encoder."""

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
from repzoo.packages.reference import Reference, is_path, naming_folder
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
    """Load a model by name, which pulls it if necessary, or from a package's folder.

    Every file is verified before it is used. Before its first load, a package is run in a separate
    process with limits; see `repzoo.admission.first_load`. If the hub cannot be reached, or if no
    hub is named and the default one does not have the model, the last pulled revision is loaded
    from the cache.

        >>> encoder = repzoo.load("simvae-mnist")
        >>> encoder = repzoo.load("hf://org/simvae-celeba@v2")
        >>> encoder = repzoo.load("runs/mine/package", provider="cpu")

    Args:
        name_or_path: ``NAME``, ``NAME@REVISION`` or ``hf://ORG/NAME@REVISION``; or a path, which
            contains a separator or is a folder with a ``manifest.json``. With ``hub`` or
            ``revision``, a word without a separator is always a name.
        hub: A hub's folder, ``hf://ORG`` or ``https://HOST/ORG``; by default ``REPZOO_HUB`` or the
            bundled packages.
        revision: The revision, if it is not part of the name.
        provider: "cpu" or "cuda"; by default CUDA if a GPU and its libraries work.
        threads: Threads that one call may use; by default the number of cores.

    Raises:
        ModelNotFound: If the model or revision does not exist.
        HubError: If the hub cannot be read and the cache does not have the model.
        IntegrityError: If files are bad and cannot be replaced.
        PackageError: If the package is not valid.
        InvalidInput: If an argument cannot be used.
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
    """Return the verified package that `load` would load, with the same arguments and errors."""
    named = hub is not None or revision is not None
    if is_path(name_or_path, named=named):
        if named:
            raise InvalidInput(
                f"{os.fspath(name_or_path)} is a path: hub and revision cannot be given"
            )
        package = Package.open(name_or_path)
        package.verify()
    else:
        name = os.fspath(name_or_path)
        with naming_folder(name):
            package = _pull_or_find(Reference.parse(name, revision), hub)
    admit(package)
    return package


def _pull_or_find(reference: Reference, hub: str | None) -> Package:
    cache = Cache()
    named = hub or reference.hub
    there = _is_cached(cache, reference, named)
    if there and named is None and default_hub(reference.name) == names().organisation:
        # Asking the public organisation is the last resort, for packages that are not cached.
        package = cache.find(reference)
        with suppress(IntegrityError):  # its hub may be able to repair it
            package.verify()
            return package
    try:
        # With a cached revision to fall back on, do not wait long for an unreachable hub.
        patience = _BRIEF if there else None
        return cache.pull(reference, hub, asking=patience).package
    except (HubError, ModelNotFound) as error:
        if named is not None and isinstance(error, ModelNotFound):
            raise
        try:
            # The same name from another hub may be another model.
            package = cache.find(reference, hub)
        except (ModelNotFound, HubError):
            raise error from None
        package.verify()
        # The default hub never has models that were pulled from another hub.
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
