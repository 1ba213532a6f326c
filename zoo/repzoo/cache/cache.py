"""The user's cache of model packages; see `repzoo.cache.places` for its layout.

Every pull checks the size and SHA-256 of every file, including files that are cached already.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from repzoo.cache.downloads import part_of
from repzoo.cache.installation import Pulled, RemotePackage, install
from repzoo.cache.places import Places, default_cache, names_in, writing_to
from repzoo.cache.trust import MOVING, Memory
from repzoo.errors import IntegrityError, ModelNotFound
from repzoo.files import write_atomically
from repzoo.hubs.opening import default_hub, hub_of, hub_spec
from repzoo.packages.package import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    Manifest,
    Package,
    file_fault,
)
from repzoo.packages.reference import Reference, is_digest, is_url, match_revision
from repzoo.packages.signatures import check_signature
from repzoo.retries import Patience

__all__ = ["Cache", "Plan", "Pulled"]

#: Attempts to ask a hub about a package. A user should soon learn that no hub can be reached.
_ATTEMPTS = 4

#: A commit or a manifest's SHA-256, or the beginning of one; anything else is a tag.
_DIGITS = re.compile(r"[0-9a-f]{7,64}")


class Plan(NamedTuple):
    """What a pull would do."""

    name: str
    revision: str
    hub: str
    #: Bytes of every file.
    files: dict[str, int]
    #: Bytes of every file that are already cached.
    there: dict[str, int]


class Cache:
    """A cache of packages.

    Args:
        path: Its folder; by default ``REPZOO_CACHE``, or ``repzoo`` in the user's cache folder.
    """

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
        """Bring a package from a hub into the cache if it is not there yet, and verify it.

        A cached revision that is given by its full SHA-256 is returned without asking a hub.

        Args:
            reference: The package.
            hub: The hub, unless the reference names one; None for the default hub.
            accept_change: Accept a tag or commit that changed since it was first pulled.
            asking: The retries of requests that resolve the revision; downloads always wait longer.
            key: A public key that must have signed the package; see `repzoo.packages.signatures`.

        Raises:
            ModelNotFound: If the hub does not have the package or revision.
            HubError: If the hub cannot be read.
            IntegrityError: If files on the hub are bad, even after fetching them again.
            RevisionChanged: If a tag or commit changed since it was first pulled.
            PackageError: If the package is not valid.
            SignatureError: If a key is given and the package is not signed with it.
            NoSpace: If the disk is full.
            OSError: If the cache cannot be written.
        """
        places = Places(self.path, reference.name)
        if key is None and reference.revision is not None and is_digest(reference.revision):
            cached = places.intact(reference.revision)
            if cached is not None:
                return Pulled(cached, None)

        asking = asking or Patience(attempts=_ATTEMPTS)
        remote, memory = self._look_up(reference, hub, asking, accept_change=accept_change)
        signature = self._new_signature(remote, memory, asking, key)
        spec = remote.hub.spec
        cached = places.intact(remote.revision)
        pulled = Pulled(cached, spec) if cached is not None else None
        if pulled is None:
            with writing_to(self.path), places.locked():
                # Another process may have installed it in the meantime.
                cached = places.intact(remote.revision)
                pulled = Pulled(cached, spec) if cached else install(remote, places, Patience())
        self._remember(remote, memory, pulled.package, signature)
        return pulled

    def plan(
        self,
        reference: Reference,
        hub: str | None = None,
        *,
        accept_change: bool = False,
        key: Path | None = None,
    ) -> Plan:
        """Return what `pull` would fetch with the same arguments, without writing anything.

        Raises:
            RepzooError: As `pull` does before it fetches files.
        """
        asking = Patience(attempts=_ATTEMPTS)
        remote, memory = self._look_up(reference, hub, asking, accept_change=accept_change)
        if key is not None:
            self._new_signature(remote, memory, asking, key)
        places = Places(self.path, remote.name)
        place, staging = places.packages / remote.revision, places.staging / remote.revision
        files = {file: entry.size for file, entry in remote.manifest.files.items()}
        there = {}
        for file, entry in remote.manifest.files.items():
            if any(file_fault(folder, file, entry) is None for folder in (place, staging)):
                there[file] = entry.size
            else:
                with suppress(FileNotFoundError):
                    there[file] = min(part_of(staging / file).lstat().st_size, entry.size)
        files[MANIFEST] = len(remote.data)
        if (place / MANIFEST).is_file():
            there[MANIFEST] = len(remote.data)
        return Plan(remote.name, remote.revision, remote.hub.spec, files, there)

    def find(self, reference: Reference, hub: str | None = None) -> Package:
        """Return a cached package without asking a hub and without verifying its files.

        A tag, a commit, ``main`` or no revision means what it meant at the last pull.

        Args:
            reference: The package.
            hub: The hub that it must have been pulled from, unless the reference names one.

        Raises:
            ModelNotFound: If the package is not in the cache.
            IntegrityError: If its manifest was changed.
            PackageError: If its manifest is damaged.
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
        if asked in (None, MOVING):
            newest = memory.newest(spec)
            revision = newest.revision if newest is not None else None
        else:
            revision = memory.meant(spec, asked)
            if revision is None:
                revision = match_revision(asked, known, f"{name} in {where}")
        if revision not in known:
            raise ModelNotFound(f"{name} is not in {where}; run: zoo pull {reference}")
        package = Package.open(Places(self.path, name).packages / revision)
        if package.revision != revision:
            raise IntegrityError(
                f"{package.path}: {MANIFEST} does not have the SHA-256 of revision {revision}",
                (MANIFEST,),
            )
        return package

    def names(self) -> list[str]:
        """Return the names of the cached packages, sorted."""
        return [name for name in names_in(self.path) if self.revisions(name)]

    def revisions(self, name: str) -> list[str]:
        """Return the cached revisions of a package, sorted."""
        return Places(self.path, name).revisions()

    def memory(self, name: str) -> Memory:
        """Return what the cache remembers about the pulls of a package."""
        return Memory.read(Places(self.path, name).memory)

    def remove(self, reference: Reference) -> list[str]:
        """Remove one revision of a package, or all, with their leftovers.

        Returns:
            The removed revisions.

        Raises:
            ModelNotFound: If the package or revision is not in the cache.
        """
        name, revision = reference.name, reference.revision
        where = f"the cache {self.path}"
        if not self.revisions(name):
            raise ModelNotFound(f"{name} is not in {where}")
        places = Places(self.path, name)
        with places.locked():
            doomed = known = places.revisions()
            if revision is not None:
                doomed = [match_revision(revision, known, f"{name} in {where}")]
            for each in doomed:
                places.remove(each)
            if doomed == known:
                shutil.rmtree(places.quarantine, ignore_errors=True)
            places.clear_staging()
        return doomed

    def _look_up(
        self, reference: Reference, hub: str | None, patience: Patience, *, accept_change: bool
    ) -> tuple[RemotePackage, Memory]:
        """Ask a hub what a reference means, and check that it still means the same."""
        name, asked = reference.name, reference.revision
        memory = self.memory(name)
        spec = reference.hub_or(hub) or _usual_hub(name, memory)
        with hub_of(name, spec, self.names) as (source, brief):
            ask = brief or patience
            commit = ask(lambda: source.resolve(name, asked))
            meant = memory.meaning(source.spec, commit)
            data = Places(self.path, name).manifest(meant) if meant is not None else None
            if data is None:
                data = ask(lambda: source.manifest(name, commit))
        if asked is None or _DIGITS.fullmatch(asked):
            asked = MOVING if asked is None else commit
        manifest = Manifest.parse(data, f"{name} in {source.spec}")
        remote = RemotePackage(source, name, commit, asked, data, manifest)
        for promised in (commit, reference.revision):
            if promised is not None and is_digest(promised) and promised != remote.revision:
                raise IntegrityError(
                    f"{source.spec}: the manifest of {name} does not have the SHA-256 {promised}",
                    (MANIFEST,),
                )
        if not accept_change:
            for each in (asked, commit):
                memory.check(name, source.spec, each, remote.revision)
        return remote, memory

    def _new_signature(
        self, remote: RemotePackage, memory: Memory, patience: Patience, key: Path | None
    ) -> bytes | None:
        """Fetch the signature of a commit that was not pulled before; check it if there is a key.

        A package may be signed long after it was made: same manifest, another commit.
        """
        known = memory.meaning(remote.hub.spec, remote.commit) == remote.revision
        if known and key is None:
            return None
        signature = patience(lambda: remote.hub.signature(remote.name, remote.commit))
        if key is not None:
            check_signature(remote.data, signature, key, f"{remote.name} in {remote.hub.spec}")
        return signature

    def _remember(
        self, remote: RemotePackage, memory: Memory, package: Package, signature: bytes | None
    ) -> None:
        """Record a pull, and keep the signature that came with it."""
        asked = tuple({remote.asked, remote.commit})
        if signature is None and memory.is_up_to_date(remote.hub.spec, asked, remote.revision):
            return
        places = Places(self.path, remote.name)
        # A cache that this user may only read can still serve its packages.
        with suppress(OSError), places.locked():
            if signature is not None and len(signature) <= MAX_MANIFEST_BYTES:
                write_atomically(package.path / SIGNATURE, signature)
            # Other processes may have added records since this one read them.
            memory = Memory.read(places.memory).adding(remote.hub.spec, asked, remote.revision)
            memory.write(places.memory)


def _usual_hub(name: str, memory: Memory) -> str | None:
    """Return the hub to use if none is named; None for the default hub.

    A package that the default hub does not bundle, and that was pulled from another hub before, is
    not looked for in the public organisation.
    """
    newest = memory.newest()
    if newest is not None and is_url(default_hub(name)) and not os.environ.get("REPZOO_HUB"):
        return newest.hub
    return None
