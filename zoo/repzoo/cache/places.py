"""The layout of the cache, and the locks that guard it.

packages/NAME/REVISION/      complete packages; they appear by renaming, never file by file
pulled/NAME.json             what was pulled from which hub, see `repzoo.cache.trust`
staging/NAME/REVISION/       packages being assembled; an interrupted pull is resumed from here
quarantine/NAME/             bad files, kept so that they can be inspected
locks/NAME.lock              held while a package is assembled, repaired or removed
admitted/REVISION.VERSIONS   an empty file for each package that passed its trial run
locks/REVISION.admission.lock
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from repzoo.cache.downloads import PART
from repzoo.errors import NoSpace, PackageError
from repzoo.files import is_no_space, locked
from repzoo.packages.package import MANIFEST, MAX_MANIFEST_BYTES, Package, is_package
from repzoo.packages.reference import is_digest, is_name

__all__ = [
    "Places",
    "admission_lock",
    "admission_marker",
    "default_cache",
    "names_in",
    "writing_to",
]

_NOT_WRITABLE = {errno.EACCES, errno.ENOTDIR, errno.EPERM, errno.EROFS}


class Places:
    """The locations of one package in a cache.

    Args:
        cache: The cache's folder.
        name: The package's name.
    """

    def __init__(self, cache: Path, name: str) -> None:
        self.cache = cache
        self.name = name
        self.packages = cache / "packages" / name
        self.staging = cache / "staging" / name
        self.quarantine = cache / "quarantine" / name
        self.memory = cache / "pulled" / f"{name}.json"

    def revisions(self) -> list[str]:
        """Return the complete revisions, sorted."""
        entries = list(self.packages.iterdir()) if self.packages.is_dir() else []
        return sorted(entry.name for entry in entries if is_digest(entry.name))

    def intact(self, revision: str) -> Package | None:
        """Return the package if it exists and every byte of it is right."""
        place = self.packages / revision
        if not is_package(place):
            return None
        try:
            package = Package.open(place)
            package.verify()
        except (OSError, PackageError):
            return None
        return package if package.revision == revision else None

    def manifest(self, revision: str) -> bytes | None:
        """Return the bytes of a revision's manifest, or None if it is missing or damaged."""
        with suppress(OSError), (self.packages / revision / MANIFEST).open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES)
            if hashlib.sha256(data).hexdigest() == revision:
                return data
        return None

    def locked(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """Hold the lock that every change needs.

        Raises:
            TimeoutError: If another process holds it and ``wait`` is false.
        """
        lock = _lock(self.cache, self.name)
        return locked(lock, f"it changes {self.name} in the cache {self.cache}", wait=wait)

    def put_aside(self, path: Path) -> Path:
        """Move something bad into the quarantine and return its new path."""
        self.quarantine.mkdir(parents=True, exist_ok=True)
        # The name depends on the content, so a hub that stays bad does not fill the disk.
        mark = secrets.token_hex(4)
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                mark = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        place = self.quarantine / f"{path.name.removesuffix(PART)}.{mark}"
        path.rename(place)
        return place

    def remove(self, revision: str) -> None:
        """Remove a complete package. A removal that is killed leaves no partial package visible."""
        doomed = self.staging / f"{revision}.old"
        shutil.rmtree(doomed, ignore_errors=True)
        self.staging.mkdir(parents=True, exist_ok=True)
        (self.packages / revision).rename(doomed)
        shutil.rmtree(doomed)

    def clear_staging(self) -> None:
        """Remove everything that is being assembled."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)


def default_cache() -> Path:
    """Return ``REPZOO_CACHE``, or ``repzoo`` in the user's cache folder."""
    named = os.environ.get("REPZOO_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "repzoo"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "repzoo"


def names_in(cache: Path, area: str = "packages") -> list[str]:
    """Return the package names that have a folder in one area of a cache, sorted."""
    folder = cache / area
    entries = list(folder.iterdir()) if folder.is_dir() else []
    return sorted(entry.name for entry in entries if is_name(entry.name) and entry.is_dir())


def admission_marker(revision: str, versions: str) -> Path:
    """Return the path of the file that marks a revision as having passed its trial run.

    Args:
        revision: The SHA-256 of the package's manifest.
        versions: The versions of the software that ran it.
    """
    return default_cache() / "admitted" / f"{revision}.{versions}"


def admission_lock(revision: str) -> Path:
    """Return the lock file of a revision's trial run."""
    return _lock(default_cache(), f"{revision}.admission")


@contextmanager
def writing_to(cache: Path) -> Iterator[None]:
    """Add advice to the errors of a cache that is full or cannot be written.

    Raises:
        NoSpace: If the disk is full.
        OSError: If the cache cannot be written for another reason.
    """
    try:
        yield
    except NoSpace:
        raise
    except OSError as error:
        place = os.fsdecode(error.filename or cache)
        if is_no_space(error):
            raise NoSpace(
                f"{place}: {error.strerror}; free some space (zoo cache prune) or set "
                "REPZOO_CACHE, then pull again: what was fetched is kept"
            ) from error
        if error.errno in _NOT_WRITABLE:
            reason = f"{error.strerror}; set REPZOO_CACHE to a folder that you may write to"
            raise OSError(error.errno, reason, place) from error
        raise


def _lock(cache: Path, name: str) -> Path:
    return cache / "locks" / f"{name}.lock"
