"""Where in a cache the things of one package lie.

packages/NAME/REVISION/   complete packages; they appear by renaming, never file by file
pulled/NAME.json          what was pulled from which hub, see `repzoo.cache.trust`
staging/NAME/REVISION/    a package in the making; a pull that was killed goes on from here
quarantine/NAME/          bad files, kept for whoever wants to know what happened
locks/NAME.lock           held while a package is made, repaired or removed
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from repzoo.cache.downloads import PART
from repzoo.errors import PackageError
from repzoo.files import locked
from repzoo.packages.package import MANIFEST, MAX_MANIFEST_BYTES, Package, is_package
from repzoo.packages.reference import is_digest

__all__ = ["Places"]


class Places:
    """The places of the package ``name`` in the cache ``cache``."""

    def __init__(self, cache: Path, name: str) -> None:
        self.cache = cache
        self.name = name
        self.packages = cache / "packages" / name
        self.staging = cache / "staging" / name
        self.quarantine = cache / "quarantine" / name
        self.memory = cache / "pulled" / f"{name}.json"

    def revisions(self) -> list[str]:
        """The revisions that are complete, sorted by digits."""
        there = [entry.name for entry in self.packages.iterdir()] if self.packages.is_dir() else []
        return sorted(each for each in there if is_digest(each))

    def intact(self, revision: str) -> Package | None:
        """The package if it is there and every byte of it is right."""
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
        """The bytes of a revision's manifest, if it is there."""
        with suppress(OSError), (self.packages / revision / MANIFEST).open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES)
            if hashlib.sha256(data).hexdigest() == revision:
                return data
        return None

    def locked(self) -> AbstractContextManager[None]:
        """What is held by whoever changes anything here."""
        folder = self.cache / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.lock"
        return locked(path, f"it changes {self.name} in the cache {self.cache}")

    def put_aside(self, path: Path) -> Path:
        """Move something bad into the quarantine; gives where it lies now."""
        self.quarantine.mkdir(parents=True, exist_ok=True)
        # Named by content, so that a hub that stays bad does not fill the disk.
        mark = secrets.token_hex(4)
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                mark = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        place = self.quarantine / f"{path.name.removesuffix(PART)}.{mark}"
        path.rename(place)
        return place

    def clear_staging(self) -> None:
        """Remove what is left of packages in the making."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
