"""The user's cache of model packages, and how a package gets there.

    packages/NAME/REVISION/   complete packages; they appear by renaming, never file by file
    pulled/NAME.json          what was pulled from which hub, see `repzoo.trust`
    staging/NAME/REVISION/    a package in the making; a pull that was killed goes on from here
    quarantine/NAME/          bad files, kept for whoever wants to know what happened
    locks/NAME.lock           held while a package is made, repaired or removed

Every pull checks size and sha256 of every file, of those that are there already too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from repzoo.content import check_content
from repzoo.downloads import PART, Download, part_of
from repzoo.errors import (
    IntegrityError,
    InvalidInput,
    ModelNotFound,
    NoSpace,
    PackageError,
)
from repzoo.files import fsync_folder, locked, write_atomically
from repzoo.hubs import Hub, hub_spec, open_hub
from repzoo.package import (
    ADVISORY,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    FileEntry,
    Manifest,
    Package,
    file_fault,
    is_package,
)
from repzoo.reference import Reference, is_digest, is_name, match_revision
from repzoo.retries import Patience
from repzoo.trust import MOVES, Memory, Record

__all__ = ["Cache", "Plan", "Pulled", "default_cache"]

#: A commit or a manifest's sha256, or their beginning; anything else is a tag.
_DIGITS = re.compile(r"[0-9a-f]{7,64}")

_log = logging.getLogger("repzoo")


class Pulled(NamedTuple):
    """What came of a pull."""

    package: Package
    #: where it came from; None if the revision was there and no hub had to be asked.
    hub: str | None
    #: files that were fetched.
    fetched: tuple[str, ...] = ()
    #: files of the cache that were bad, and were replaced.
    repaired: tuple[str, ...] = ()
    #: files for people, such as the card, that the hub no longer has.
    skipped: tuple[str, ...] = ()


class Plan(NamedTuple):
    """What a pull would do."""

    name: str
    revision: str
    hub: str
    #: bytes of every file.
    files: dict[str, int]
    #: bytes of every file that are in the cache already.
    there: dict[str, int]


class _Found(NamedTuple):
    """A package on a hub: by commit, so that nothing mixes two of them."""

    hub: Hub
    name: str
    commit: str
    #: what the commit was asked for by: ``main``, a tag, or the commit itself.
    asked: str
    manifest: bytes

    @property
    def revision(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()

    def parse(self) -> Manifest:
        return Manifest.parse(self.manifest, f"{self.name} in {self.hub.spec}")


class Cache:
    """The cache in ``REPZOO_CACHE``, by default in the user's cache folder."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = (default_cache() if path is None else Path(path)).absolute()

    def pull(
        self,
        reference: Reference,
        hub: str | None = None,
        *,
        accept_change: bool = False,
        asking: Patience | None = None,
    ) -> Pulled:
        """Bring a package of a hub into the cache, or find it there, and verify it.

        Args:
            reference: which package.
            hub: the hub's spec, if the reference names none; None: the default one. It is not
                asked for a revision that is given by its full sha256 and is there.
            accept_change: take a tag or commit that is not what it was as what it is now.
            asking: how patiently to ask what a revision is; files are waited for in any case.

        Raises:
            ModelNotFound: if the hub has no such package or revision.
            HubError: if the hub cannot be read.
            IntegrityError: if the hub's own files are bad, even when fetched again.
            RevisionChanged: if a tag or commit has another manifest than when it was first pulled.
            PackageError: if the hub's package is not a valid one.
            NoSpace: if the disk is too full.
            OSError: if the cache cannot be written.
        """
        name = reference.name
        if reference.revision is not None and is_digest(reference.revision):
            there = self._intact(name, reference.revision)
            if there is not None:
                return Pulled(there, None)

        asking = asking or Patience()
        found = self._look_up(reference, hub, asking, accept_change=accept_change)
        signature = self._new_signature(found, asking)
        there = self._intact(name, found.revision)
        pulled = Pulled(there, found.hub.spec) if there is not None else None
        if pulled is None:
            with self._locked(name):
                # Whoever held the lock may have done the work.
                there = self._intact(name, found.revision)
                if there is not None:
                    pulled = Pulled(there, found.hub.spec)
                else:
                    pulled = self._install(found, Patience())
        self._remember(found, pulled.package, signature)
        return pulled

    def plan(self, reference: Reference, hub: str | None = None) -> Plan:
        """What `pull` would fetch with the same arguments; nothing is written.

        Raises:
            As `pull` does for what it finds out before it fetches files.
        """
        found = self._look_up(reference, hub, Patience())
        files = {file: entry.size for file, entry in found.parse().files.items()}
        files[MANIFEST] = len(found.manifest)
        place, staging = (each(found.name, found.revision) for each in (self._place, self._staging))
        there = {}
        for file, entry in found.parse().files.items():
            if any(file_fault(folder, file, entry) is None for folder in (place, staging)):
                there[file] = entry.size
            else:
                with suppress(FileNotFoundError):
                    there[file] = min(part_of(staging / file).lstat().st_size, entry.size)
        if (place / MANIFEST).is_file():
            there[MANIFEST] = len(found.manifest)
        return Plan(found.name, found.revision, found.hub.spec, files, there)

    def find(self, reference: Reference, hub: str | None = None) -> Package:
        """The package in the cache that a reference means; no hub is asked, nothing is verified.

        Without a revision, or with ``main``, it is the one that was pulled last; with a tag or a
        commit, what that was when it was pulled.

        Args:
            reference: which package.
            hub: the hub that it must have been pulled from, if the reference names none.

        Raises:
            ModelNotFound: if it is not in the cache.
            IntegrityError: if its manifest was changed.
            PackageError: if its manifest is damaged.
        """
        name, asked = reference.name, reference.revision
        spec = _one_hub(reference, hub)
        memory = self.memory(name)
        known = self.revisions(name)
        where = f"the cache {self.path}"
        if spec is not None:
            spec = hub_spec(spec)
            where += f" from {spec}"
            known = [each for each in known if any(r.revision == each for r in memory.of(spec))]
        if asked in (None, MOVES):
            newest = memory.newest(spec)
            revision = newest.revision if newest is not None else None
        else:
            revision = memory.meant(spec, asked)
            if revision is None:
                revision = match_revision(asked, known, f"{name} in {where}")
        if revision not in known:
            raise ModelNotFound(f"{name} is not in {where}: zoo pull {reference}")
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

    def memory(self, name: str) -> Memory:
        """What is remembered of the pulls of a name."""
        return Memory.read(self._memory(name))

    def last_pull(self, name: str) -> Record | None:
        """Which revision of a package was pulled last, from where and when."""
        return self.memory(name).newest()

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

    def _look_up(
        self,
        reference: Reference,
        hub: str | None,
        patience: Patience,
        *,
        accept_change: bool = False,
    ) -> _Found:
        """Ask a hub what a reference means, and whether it still is what it was."""
        source = open_hub(_one_hub(reference, hub))
        name, asked = reference.name, reference.revision
        commit = patience(lambda: source.resolve(name, asked))
        memory = self.memory(name)
        meant = memory.meaning(source.spec, commit)
        data = self._manifest_there(name, meant) if meant is not None else None
        if data is None:
            data = patience(lambda: source.manifest(name, commit))
        if asked is None or _DIGITS.fullmatch(asked):
            asked = MOVES if asked is None else commit
        found = _Found(source, name, commit, asked, data)
        found.parse()
        pinned = reference.revision
        for promised in (commit, pinned):
            if promised is not None and is_digest(promised) and promised != found.revision:
                raise IntegrityError(
                    f"{source.spec}: the manifest of {name} is not that of {promised}", (MANIFEST,)
                )
        if not accept_change:
            for each in (asked, commit):
                memory.check(name, source.spec, each, found.revision)
        return found

    def _new_signature(self, found: _Found, patience: Patience) -> bytes | None:
        """The signature of a commit that was not pulled before.

        A package may be signed long after it was made: the same manifest, another commit.
        """
        if self.memory(found.name).meaning(found.hub.spec, found.commit) == found.revision:
            return None
        return patience(lambda: found.hub.signature(found.name, found.commit))

    def _manifest_there(self, name: str, revision: str) -> bytes | None:
        """The manifest of a revision that is in the cache."""
        with suppress(OSError), (self._place(name, revision) / MANIFEST).open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES)
            if hashlib.sha256(data).hexdigest() == revision:
                return data
        return None

    def _install(self, found: _Found, patience: Patience) -> Pulled:
        name, revision = found.name, found.revision
        place, staging = self._place(name, revision), self._staging(name, revision)
        staging.parent.mkdir(parents=True, exist_ok=True)
        damaged = place.exists()
        if damaged:
            # Out of sight while it is repaired.
            shutil.rmtree(staging, ignore_errors=True)
            place.rename(staging)
        staging.mkdir(exist_ok=True)

        files = found.parse().files
        size = len(found.manifest)
        wanted = {**files, MANIFEST: FileEntry(size=size, sha256=revision)}
        missing = self._sort_out(name, staging, wanted, keep_bad=damaged)
        repaired = tuple(missing) if damaged else ()
        if repaired:
            _log.warning("%s: replacing %s", place, ", ".join(repaired))
        to_fetch = {file: files[file] for file in missing if file != MANIFEST}
        self._check_space(staging, name, to_fetch)
        put_aside = partial(self._quarantine, name)
        download = Download(found.hub, name, found.commit, staging, put_aside, patience)
        skipped = download.fetch(to_fetch)
        if skipped:
            _log.info("%s in %s has no %s", name, found.hub.spec, ", ".join(skipped))
        write_atomically(staging / MANIFEST, found.manifest)

        try:
            package = Package.open(staging)
            if package.config.name != name:
                calls_itself = package.config.name
                raise PackageError(f"{name} in {found.hub.spec} calls itself {calls_itself}")
            check_content(package)
        except PackageError:
            shutil.rmtree(staging)
            raise
        for folder in {staging, *(Path(staging, file).parent for file in wanted)}:
            fsync_folder(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(place)
        fsync_folder(place.parent)
        self._clear_staging(name)
        fetched = tuple(file for file in to_fetch if file not in skipped)
        return Pulled(Package.open(place), found.hub.spec, fetched, repaired, tuple(skipped))

    def _sort_out(
        self, name: str, staging: Path, wanted: Mapping[str, FileEntry], *, keep_bad: bool
    ) -> list[str]:
        """Leave only good files, and parts, in a folder; say which are missing."""
        real_folders = {"probes", "figures"}
        parts = {file + PART for file in wanted if file not in (*ADVISORY, MANIFEST)}
        for entry in sorted(staging.rglob("*")):
            file = entry.relative_to(staging).as_posix()
            plain = not entry.is_symlink()
            if entry.is_dir() and plain and file in real_folders:
                continue
            if file in wanted:
                good = file_fault(staging, file, wanted[file]) is None
            elif file in parts:
                good = plain and entry.is_file() and not (staging / file[: -len(PART)]).exists()
            else:
                good = file == SIGNATURE and plain and entry.is_file()
            if good or not os.path.lexists(entry):
                continue
            if keep_bad:
                self._quarantine(name, entry)
            elif entry.is_dir() and plain:
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return [file for file in wanted if not (staging / file).exists()]

    def _check_space(self, staging: Path, name: str, files: Mapping[str, FileEntry]) -> None:
        """Say at the beginning, not at the end, that the disk is too full."""
        parts = {file: part_of(staging / file) for file in files}
        there = sum(path.lstat().st_size for path in parts.values() if path.exists())
        needed = sum(entry.size for entry in files.values()) - there
        free = shutil.disk_usage(staging).free
        if needed > free:
            raise NoSpace(
                f"{self.path}: {name} needs {_mebibytes(needed)} more, and {_mebibytes(free)} are "
                "free; free some (zoo cache prune), or set REPZOO_CACHE to another disk"
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

    def _remember(self, found: _Found, package: Package, signature: bytes | None) -> None:
        """Remember a pull, and keep the signature that came with it."""
        asked = tuple({found.asked, found.commit})
        known = self.memory(found.name).knows(found.hub.spec, asked, found.revision)
        if known and signature is None:
            return
        # A cache that this user may only read still serves what is in it.
        with suppress(OSError), self._locked(found.name):
            if signature is not None and len(signature) <= MAX_MANIFEST_BYTES:
                write_atomically(package.path / SIGNATURE, signature)
            memory = self.memory(found.name).adding(found.hub.spec, asked, found.revision)
            memory.write(self._memory(found.name))

    def _clear_staging(self, name: str) -> None:
        shutil.rmtree(self.path / "staging" / name, ignore_errors=True)
        (self.path / "staging" / name).mkdir(parents=True)

    def _place(self, name: str, revision: str) -> Path:
        return self.path / "packages" / name / revision

    def _staging(self, name: str, revision: str) -> Path:
        return self.path / "staging" / name / revision

    def _memory(self, name: str) -> Path:
        return self.path / "pulled" / f"{name}.json"


def default_cache() -> Path:
    """``REPZOO_CACHE``, or ``repzoo`` in the user's cache folder."""
    named = os.environ.get("REPZOO_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "repzoo"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "repzoo"


def _one_hub(reference: Reference, hub: str | None) -> str | None:
    """The hub that is meant, said in the reference or beside it."""
    if reference.hub is not None and hub is not None and hub != reference.hub:
        raise InvalidInput(f"{reference} names its hub, and {hub} is another")
    return reference.hub or hub


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
