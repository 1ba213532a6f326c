"""The user's cache of model packages; `repzoo.cache.places` says what lies where in it.

Every pull checks size and sha256 of every file, of those that are there already too.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from repzoo.cache.downloads import part_of
from repzoo.cache.installation import Found, Pulled, install
from repzoo.cache.places import Places
from repzoo.cache.trust import MOVES, Memory, Record
from repzoo.errors import IntegrityError, ModelNotFound
from repzoo.files import write_atomically
from repzoo.hubs.opening import default_hub, hub_spec, open_hub
from repzoo.packages.package import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    Manifest,
    Package,
    file_fault,
)
from repzoo.packages.reference import Reference, is_digest, is_name, is_url, match_revision
from repzoo.packages.signatures import check_signature
from repzoo.retries import Patience

__all__ = ["Cache", "Plan", "Pulled", "default_cache"]

#: How often a hub is asked what a package is; with no hub in reach one should soon know.
_QUESTIONS = 4

#: A commit or a manifest's sha256, or their beginning; anything else is a tag.
_DIGITS = re.compile(r"[0-9a-f]{7,64}")


class Plan(NamedTuple):
    """What a pull would do."""

    name: str
    revision: str
    hub: str
    #: bytes of every file.
    files: dict[str, int]
    #: bytes of every file that are in the cache already.
    there: dict[str, int]


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
        key: Path | None = None,
    ) -> Pulled:
        """Bring a package of a hub into the cache, or find it there, and verify it.

        Args:
            reference: which package.
            hub: the hub's spec, if the reference names none; None: the default one. It is not
                asked for a revision that is given by its full sha256 and is there.
            accept_change: take a tag or commit that is not what it was as what it is now.
            asking: how patiently to ask what a revision is; files are waited for in any case.
            key: a public key that the package must be signed with, see `repzoo.packages.signatures`.

        Raises:
            ModelNotFound: if the hub has no such package or revision.
            HubError: if the hub cannot be read.
            IntegrityError: if the hub's own files are bad, even when fetched again.
            RevisionChanged: if a tag or commit has another manifest than when it was first pulled.
            PackageError: if the hub's package is not a valid one.
            SignatureError: if a key is given and the package is not signed with it.
            NoSpace: if the disk is too full.
            OSError: if the cache cannot be written.
        """
        places = Places(self.path, reference.name)
        if key is None and reference.revision is not None and is_digest(reference.revision):
            there = places.intact(reference.revision)
            if there is not None:
                return Pulled(there, None)

        asking = asking or Patience(attempts=_QUESTIONS)
        found = self._look_up(reference, hub, asking, accept_change=accept_change)
        signature = self._new_signature(found, asking, key)
        there = places.intact(found.revision)
        pulled = Pulled(there, found.hub.spec) if there is not None else None
        if pulled is None:
            with places.locked():
                # Whoever held the lock may have done the work.
                there = places.intact(found.revision)
                if there is not None:
                    pulled = Pulled(there, found.hub.spec)
                else:
                    pulled = install(found, places, Patience())
        self._remember(found, pulled.package, signature)
        return pulled

    def plan(
        self,
        reference: Reference,
        hub: str | None = None,
        *,
        accept_change: bool = False,
        key: Path | None = None,
    ) -> Plan:
        """What `pull` would fetch with the same arguments; nothing is written.

        Raises:
            As `pull` does for what it finds out before it fetches files.
        """
        asking = Patience(attempts=_QUESTIONS)
        found = self._look_up(reference, hub, asking, accept_change=accept_change)
        if key is not None:
            self._new_signature(found, asking, key)
        places = Places(self.path, found.name)
        place, staging = places.packages / found.revision, places.staging / found.revision
        files = {file: entry.size for file, entry in found.manifest.files.items()}
        there = {}
        for file, entry in found.manifest.files.items():
            if any(file_fault(folder, file, entry) is None for folder in (place, staging)):
                there[file] = entry.size
            else:
                with suppress(FileNotFoundError):
                    there[file] = min(part_of(staging / file).lstat().st_size, entry.size)
        files[MANIFEST] = len(found.data)
        if (place / MANIFEST).is_file():
            there[MANIFEST] = len(found.data)
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
        spec = reference.hub_or(hub)
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
        package = Package.open(Places(self.path, name).packages / revision)
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
        return Places(self.path, name).revisions()

    def memory(self, name: str) -> Memory:
        """What is remembered of the pulls of a name."""
        return Memory.read(Places(self.path, name).memory)

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
        places = Places(self.path, name)
        with places.locked():
            doomed = known = places.revisions()
            if revision is not None:
                doomed = [match_revision(revision, known, f"{name} in the cache {self.path}")]
            for each in doomed:
                # Out of sight in one step: a removal that is killed leaves no half package.
                places.clear_staging()
                (places.packages / each).rename(places.staging / each)
            if doomed == known:
                shutil.rmtree(places.quarantine, ignore_errors=True)
            places.clear_staging()
        return doomed

    def _look_up(
        self,
        reference: Reference,
        hub: str | None,
        patience: Patience,
        *,
        accept_change: bool = False,
    ) -> Found:
        """Ask a hub what a reference means, and whether it still is what it was."""
        name, asked = reference.name, reference.revision
        memory = self.memory(name)
        source = open_hub(reference.hub_or(hub) or self._usual_hub(name, memory), name)
        commit = patience(lambda: source.resolve(name, asked))
        meant = memory.meaning(source.spec, commit)
        data = Places(self.path, name).manifest(meant) if meant is not None else None
        if data is None:
            data = patience(lambda: source.manifest(name, commit))
        if asked is None or _DIGITS.fullmatch(asked):
            asked = MOVES if asked is None else commit
        manifest = Manifest.parse(data, f"{name} in {source.spec}")
        found = Found(source, name, commit, asked, data, manifest)
        for promised in (commit, reference.revision):
            if promised is not None and is_digest(promised) and promised != found.revision:
                raise IntegrityError(
                    f"{source.spec}: the manifest of {name} is not that of {promised}", (MANIFEST,)
                )
        if not accept_change:
            for each in (asked, commit):
                memory.check(name, source.spec, each, found.revision)
        return found

    def _usual_hub(self, name: str, memory: Memory) -> str | None:
        """The hub of who names none.

        That is the default one, None; but what it does not have here, and was pulled from another,
        is not looked for among the packages of everybody.
        """
        default = default_hub(name)
        newest = memory.newest()
        if is_url(default) and not os.environ.get("REPZOO_HUB") and newest is not None:
            return newest.hub
        return None

    def _new_signature(self, found: Found, patience: Patience, key: Path | None) -> bytes | None:
        """The signature of a commit that was not pulled before; with a key of any, and checked.

        A package may be signed long after it was made: the same manifest, another commit.
        """
        known = self.memory(found.name).meaning(found.hub.spec, found.commit) == found.revision
        if known and key is None:
            return None
        signature = patience(lambda: found.hub.signature(found.name, found.commit))
        if key is not None:
            check_signature(found.data, signature, key, f"{found.name} in {found.hub.spec}")
        return signature

    def _remember(self, found: Found, package: Package, signature: bytes | None) -> None:
        """Remember a pull, and keep the signature that came with it."""
        asked = tuple({found.asked, found.commit})
        known = self.memory(found.name).knows(found.hub.spec, asked, found.revision)
        if known and signature is None:
            return
        places = Places(self.path, found.name)
        # A cache that this user may only read still serves what is in it.
        with suppress(OSError), places.locked():
            if signature is not None and len(signature) <= MAX_MANIFEST_BYTES:
                write_atomically(package.path / SIGNATURE, signature)
            memory = Memory.read(places.memory).adding(found.hub.spec, asked, found.revision)
            memory.write(places.memory)


def default_cache() -> Path:
    """``REPZOO_CACHE``, or ``repzoo`` in the user's cache folder."""
    named = os.environ.get("REPZOO_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "repzoo"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "repzoo"
