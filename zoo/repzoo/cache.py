"""The user's cache of model packages, and how a package gets there.

    packages/NAME/REVISION/   complete packages; they appear by renaming, never file by file
    pulled/NAME.json          which revision was pulled last, and from which hub
    staging/NAME/REVISION/    a package in the making; a pull that was killed goes on from here
    quarantine/NAME/          bad files, kept for whoever wants to know what happened
    locks/NAME.lock           held while a package is made, repaired or removed

Every pull checks size and sha256 of every file, of those that are there already too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from repzoo.errors import IntegrityError, ModelNotFound, PackageError
from repzoo.files import copy_checked, fsync_folder, locked, temporary_folder, write_atomically
from repzoo.hubs import Hub, open_hub
from repzoo.package import MANIFEST, FileEntry, Manifest, Package, file_fault, is_package
from repzoo.reference import Reference, is_digest, is_name, match_revision

__all__ = ["Cache", "LastPull", "Pulled", "copy_out", "default_cache"]

_log = logging.getLogger("repzoo")

#: A bad file is fetched once more: what went wrong may have been the way here.
_ATTEMPTS = 2


class LastPull(BaseModel):
    """``pulled/NAME.json``: what NAME means in this cache."""

    model_config = ConfigDict(frozen=True)

    revision: str
    hub: str
    pulled: datetime


class Pulled(NamedTuple):
    """What came of a pull."""

    package: Package
    #: where it came from; None if the revision was there and no hub had to be asked.
    hub: str | None
    #: files that were fetched.
    fetched: tuple[str, ...] = ()
    #: files of the cache that were bad, and were replaced.
    repaired: tuple[str, ...] = ()


class Cache:
    """The cache in ``REPZOO_CACHE``, by default in the user's cache folder."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = (default_cache() if path is None else Path(path)).absolute()

    def pull(self, reference: Reference, hub: str | None = None) -> Pulled:
        """Bring a package of a hub into the cache, or find it there, and verify it.

        Args:
            reference: which package.
            hub: the hub's spec; None: the default one. It is not asked for a revision that is
                given by its full sha256 and is there.

        Raises:
            ModelNotFound: if the hub has no such package or revision.
            HubError: if the hub cannot be read.
            IntegrityError: if the hub's own files are bad, even when fetched again.
            PackageError: if the hub's package is not a valid one.
            OSError: if the cache cannot be written.
        """
        name = reference.name
        if reference.revision is not None and is_digest(reference.revision):
            there = self._intact(name, reference.revision)
            if there is not None:
                return Pulled(there, None)

        source = open_hub(hub)
        commit = source.resolve(name, reference.revision)
        data = source.manifest(name, commit)
        manifest = Manifest.parse(data, f"{name} in {source.spec}")
        revision = hashlib.sha256(data).hexdigest()
        for promised in (commit, reference.revision):
            if promised is not None and is_digest(promised) and promised != revision:
                raise IntegrityError(
                    f"{source.spec}: the manifest of {name} is not that of {promised}", (MANIFEST,)
                )

        there = self._intact(name, revision)
        pulled = Pulled(there, source.spec) if there is not None else None
        if pulled is None:
            with self._locked(name):
                # Whoever held the lock may have done the work.
                there = self._intact(name, revision)
                if there is not None:
                    pulled = Pulled(there, source.spec)
                else:
                    pulled = self._install(source, name, commit, data, manifest)
        self._remember(name, revision, source.spec)
        return pulled

    def find(self, reference: Reference) -> Package:
        """The package in the cache that a reference means; no hub is asked, nothing is verified.

        Without a revision, or with ``main``, it is the one that was pulled last.

        Raises:
            ModelNotFound: if it is not in the cache.
            IntegrityError: if its manifest was changed.
            PackageError: if its manifest is damaged.
        """
        name, revision = reference.name, reference.revision
        known = self.revisions(name)
        if revision in (None, "main"):
            last = self.last_pull(name)
            revision = last.revision if last is not None else None
            if revision not in known:
                raise ModelNotFound(f"{name} is not in the cache: zoo pull {name}")
        else:
            revision = match_revision(revision, known, f"{name} in the cache {self.path}")
        package = Package.open(self._place(name, revision))
        if package.revision != revision:
            raise IntegrityError(
                f"{package.path}: {MANIFEST} is not that of revision {revision}", (MANIFEST,)
            )
        return package

    def names(self) -> list[str]:
        """The names of the packages in the cache, sorted."""
        folder = self.path / "packages"
        there = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(name for name in there if is_name(name) and self.revisions(name))

    def revisions(self, name: str) -> list[str]:
        """The revisions of a package in the cache, sorted by digits."""
        folder = self.path / "packages" / name
        there = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(each for each in there if is_digest(each))

    def last_pull(self, name: str) -> LastPull | None:
        """Which revision of a package was pulled last, from where and when."""
        try:
            return LastPull.model_validate_json(self._last_pull(name).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def remove(self, reference: Reference) -> list[str]:
        """Remove one revision of a package, or all, with what else the cache holds of them.

        Returns:
            The revisions that were removed.

        Raises:
            ModelNotFound: if there is nothing to remove.
        """
        name, revision = reference.name, reference.revision
        if not self.revisions(name):
            raise ModelNotFound(f"{name} is not in the cache {self.path}")
        with self._locked(name):
            doomed = known = self.revisions(name)
            if revision is not None:
                doomed = [match_revision(revision, known, f"{name} in the cache {self.path}")]
            last = self.last_pull(name)
            if last is None or last.revision in doomed:
                self._last_pull(name).unlink(missing_ok=True)
            for each in doomed:
                # Out of sight in one step: a removal that is killed leaves no half package.
                self._clear_staging(name)
                self._place(name, each).rename(self._staging(name, each))
            if doomed == known:
                shutil.rmtree(self.path / "quarantine" / name, ignore_errors=True)
            self._clear_staging(name)
        return doomed

    def _locked(self, name: str) -> AbstractContextManager[None]:
        folder = self.path / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return locked(folder / f"{name}.lock", f"it changes {name} in the cache {self.path}")

    def _intact(self, name: str, revision: str) -> Package | None:
        """The package if it is there and every byte of it is right."""
        place = self._place(name, revision)
        if not is_package(place):
            return None
        try:
            package = Package.open(place)
            package.verify()
        except (OSError, PackageError):
            return None
        return package if package.revision == revision else None

    def _install(self, hub: Hub, name: str, commit: str, data: bytes, manifest: Manifest) -> Pulled:
        revision = hashlib.sha256(data).hexdigest()
        place, staging = self._place(name, revision), self._staging(name, revision)
        staging.parent.mkdir(parents=True, exist_ok=True)
        damaged = place.exists()
        if damaged:
            # Out of sight while it is repaired.
            shutil.rmtree(staging, ignore_errors=True)
            place.rename(staging)
        staging.mkdir(exist_ok=True)

        wanted = {**manifest.files, MANIFEST: FileEntry(size=len(data), sha256=revision)}
        missing = self._sort_out(name, staging, wanted, keep_bad=damaged)
        repaired = tuple(missing) if damaged else ()
        if repaired:
            _log.warning("%s: replacing %s", place, ", ".join(repaired))
        files = [file for file in missing if file != MANIFEST]
        with _progress_bar(name, sum(wanted[file].size for file in files)) as bar:
            for file in files:
                self._fetch(hub, name, commit, file, wanted[file], staging, bar.update)
        write_atomically(staging / MANIFEST, data)

        try:
            calls_itself = Package.open(staging).config.name
            if calls_itself != name:
                raise PackageError(f"{name} in {hub.spec} calls itself {calls_itself}")
        except PackageError:
            shutil.rmtree(staging)
            raise
        for folder in {staging, *(Path(staging, file).parent for file in wanted)}:
            fsync_folder(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(place)
        fsync_folder(place.parent)
        self._clear_staging(name)
        return Pulled(Package.open(place), hub.spec, tuple(files), repaired)

    def _sort_out(
        self, name: str, staging: Path, wanted: dict[str, FileEntry], *, keep_bad: bool
    ) -> list[str]:
        """Leave only good files in a folder; say which are missing."""
        real_folders = {"probes", "figures"}
        for entry in sorted(staging.rglob("*")):
            file = entry.relative_to(staging).as_posix()
            if entry.is_dir() and not entry.is_symlink() and file in real_folders:
                continue
            good = file in wanted and file_fault(staging, file, wanted[file]) is None
            if good or not os.path.lexists(entry):
                continue
            if keep_bad:
                self._quarantine(name, entry)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return [file for file in wanted if not (staging / file).exists()]

    def _fetch(
        self,
        hub: Hub,
        name: str,
        commit: str,
        file: str,
        entry: FileEntry,
        staging: Path,
        progress: Callable[[int], object],
    ) -> None:
        target = staging / file
        target.parent.mkdir(exist_ok=True)
        part = target.with_name(target.name + ".part")
        fault = None
        for _ in range(_ATTEMPTS):
            with hub.open(name, commit, file) as source:
                fault = copy_checked(source, part, entry.size, entry.sha256, progress)
            if fault is None:
                part.rename(target)
                return
            kept = self._quarantine(name, part)
        raise IntegrityError(
            f"{hub.spec}: {file} of {name} {fault}; what came is kept as {kept}", (file,)
        )

    def _quarantine(self, name: str, path: Path) -> Path:
        folder = self.path / "quarantine" / name
        folder.mkdir(parents=True, exist_ok=True)
        # Named by content, so that a hub that stays bad does not fill the disk.
        mark = secrets.token_hex(4)
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                mark = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        place = folder / f"{path.name.removesuffix('.part')}.{mark}"
        path.rename(place)
        return place

    def _remember(self, name: str, revision: str, hub: str) -> None:
        last = self.last_pull(name)
        if last is not None and (last.revision, last.hub) == (revision, hub):
            return
        record = LastPull(revision=revision, hub=hub, pulled=datetime.now(UTC))
        # A cache that this user may only read still serves what is in it.
        with suppress(OSError):
            self._last_pull(name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._last_pull(name), record.model_dump_json().encode() + b"\n")

    def _clear_staging(self, name: str) -> None:
        shutil.rmtree(self.path / "staging" / name, ignore_errors=True)
        (self.path / "staging" / name).mkdir(parents=True)

    def _place(self, name: str, revision: str) -> Path:
        return self.path / "packages" / name / revision

    def _staging(self, name: str, revision: str) -> Path:
        return self.path / "staging" / name / revision

    def _last_pull(self, name: str) -> Path:
        return self.path / "pulled" / f"{name}.json"


def copy_out(package: Package, directory: Path) -> Package:
    """Write a real copy of a verified package to ``directory/NAME``, and verify the copy.

    A package that lies there already is replaced, unless it has files beside its manifest's.

    Raises:
        PackageError: if something that is not to be replaced lies there.
        IntegrityError: if the package changes while it is copied.
        OSError: if the copy cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / package.config.name
    if os.path.lexists(target):
        _check_replaceable(target)
    with temporary_folder(directory, f".{package.config.name}.") as scratch:
        copy = scratch / "new"
        copy.mkdir()
        for file, entry in package.manifest.files.items():
            (copy / file).parent.mkdir(exist_ok=True)
            with (package.path / file).open("rb") as source:
                fault = copy_checked(source, copy / file, entry.size, entry.sha256)
            if fault is not None:
                raise IntegrityError(f"{package.path / file} {fault}", (file,))
        write_atomically(copy / MANIFEST, (package.path / MANIFEST).read_bytes())
        if target.exists():
            target.rename(scratch / "old")
        try:
            copy.rename(target)
        except OSError:
            with suppress(FileNotFoundError):
                (scratch / "old").rename(target)
            raise
        fsync_folder(directory)
    return Package.open(target)


def default_cache() -> Path:
    """``REPZOO_CACHE``, or ``repzoo`` in the user's cache folder."""
    named = os.environ.get("REPZOO_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "repzoo"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "repzoo"


def _check_replaceable(target: Path) -> None:
    if target.is_symlink() or not is_package(target):
        raise PackageError(f"{target} is there and is not a model package: move it away")
    extra = Package.open(target).extra_files()
    if extra:
        raise PackageError(
            f"{target} holds files that are not the package's ({', '.join(extra)}): move it away"
        )


def _progress_bar(name: str, total: int) -> tqdm[Any]:
    # disable=None: only on a terminal.
    return tqdm(total=total, unit="B", unit_scale=True, desc=name, leave=False, disable=None)
