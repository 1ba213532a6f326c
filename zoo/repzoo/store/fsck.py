"""Check every byte of a store, and find what no revision needs."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from repzoo.errors import HubError, ModelNotFound
from repzoo.files import open_regular
from repzoo.packages.package import FileEntry
from repzoo.packages.reference import is_digest, is_name
from repzoo.store.commits import Commit, is_commit
from repzoo.store.guard import as_hub_error
from repzoo.store.repository import MAIN, Repository, is_tag
from repzoo.store.store import MARKER, Store

__all__ = ["Findings", "check"]

_CHUNK = 2**20
# A file that `write_atomically` did not get to rename.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")


@dataclass
class Findings:
    """The results of a check. Paths are relative to the store."""

    #: What is wrong: one sentence each, which names the file.
    faults: list[str] = field(default_factory=list)
    #: Complete blobs and commits that no revision needs, including current uploads.
    dangling: list[str] = field(default_factory=list)
    #: Incomplete files that killed writers left.
    leftovers: list[str] = field(default_factory=list)
    #: Those of both that were removed.
    removed: list[str] = field(default_factory=list)
    repositories: int = 0
    commits: int = 0
    blobs: int = 0
    size: int = 0


def check(
    store: Store,
    *,
    prune: bool = False,
    grace: float = 24 * 3600,
    progress: Callable[[int], object] = lambda _: None,
) -> Findings:
    """Check every blob, commit, ref and package of a store. The store may be in use.

    Args:
        store: The store.
        prune: Remove leftovers. Also remove unreferenced content, unless a ref or commit is bad:
            content that only a bad one needs looks unreferenced.
        grace: Seconds for which unreferenced content is spared, because an upload may be about to
            need it.
        progress: Called with the number of bytes of each piece that was read.

    Raises:
        HubError: If the store cannot be read or pruned at all.
    """
    findings = Findings()
    with as_hub_error(store.spec):
        blobs = dict(_check_blobs(store, findings, progress))
        if not prune:
            findings.leftovers += map(_inside(store), store.blobs.leftovers())
            _check_references(store, blobs, findings)
            _check_packages(store, findings)
            return findings
        # While no commit can be made, nothing unreferenced can become needed.
        with store.lock():
            cleared = [_inside(store)(path) for path in store.blobs.clear_leftovers()]
            findings.leftovers += cleared
            findings.removed += cleared
            before = len(findings.faults)
            _check_references(store, blobs, findings)
            _remove(store, findings, grace, sure=len(findings.faults) == before)
            _check_packages(store, findings)
    return findings


def _check_blobs(
    store: Store, findings: Findings, progress: Callable[[int], object]
) -> Iterator[tuple[str, int]]:
    """Hash every blob, and yield the digest and size of each, right or not."""
    for path in sorted(store.blobs.folder.iterdir()):
        where = _inside(store)(path)
        if not is_digest(path.name):
            findings.faults.append(f"{where} does not belong there")
            continue
        digest = hashlib.sha256()
        size = 0
        try:
            with open_regular(path) as file:
                while piece := file.read(_CHUNK):
                    digest.update(piece)
                    size += len(piece)
                    progress(len(piece))
        except FileNotFoundError:
            continue  # another process prunes
        except OSError as error:
            findings.faults.append(f"{where} cannot be read: {error.strerror}")
            continue
        if digest.hexdigest() != path.name:
            findings.faults.append(f"{where} does not have the sha256 in its name")
        findings.blobs += 1
        findings.size += size
        yield path.name, size


def _check_references(store: Store, blobs: dict[str, int], findings: Findings) -> None:
    needed: dict[str, FileEntry] = {}
    inside = _inside(store)
    for path in sorted(store.path.iterdir()):
        if path.name not in (MARKER, "blobs", "incoming", "repos", ".lock"):
            _unexpected(path, findings, inside)
    for folder in sorted((store.path / "repos").iterdir()):
        repository = Repository(folder, store.blobs, store.lock)
        if not is_name(folder.name) or folder.is_symlink() or not folder.is_dir():
            _unexpected(folder, findings, inside)
        elif not repository.exists:
            findings.leftovers.append(inside(folder))  # its creation was killed
        else:
            findings.repositories += 1
            needed |= _check_repository(repository, findings, inside)
    for digest, entry in needed.items():
        # It may have been published after the blobs were listed.
        size = blobs.get(digest, store.blobs.size(digest))
        if size is None:
            findings.faults.append(f"blobs/sha256/{digest} is missing")
        elif size != entry.size:
            findings.faults.append(f"blobs/sha256/{digest} has {size} bytes, not {entry.size}")
    unneeded = [digest for digest in blobs if digest not in needed]
    findings.dangling += [f"blobs/sha256/{digest}" for digest in unneeded]


def _check_repository(
    repository: Repository, findings: Findings, inside: Callable[[Path], str]
) -> dict[str, FileEntry]:
    """Return the files that all commits reachable from refs need, by SHA-256."""
    folder = repository.folder
    commits = _read_commits(folder / "commits", findings, inside)
    starts: dict[str, str] = {}
    for path in _listed(folder, findings, inside):
        if path.name not in ("commits", "refs", "settings.json"):
            _unexpected(path, findings, inside)
    for path in _listed(folder / "refs" / "heads", findings, inside):
        if path.name != MAIN:
            _unexpected(path, findings, inside)
    for path in _listed(folder / "refs" / "tags", findings, inside):
        if not is_tag(path.name):
            _unexpected(path, findings, inside)
    try:
        _ = repository.settings
        starts[inside(folder / "refs" / "heads" / MAIN)] = repository.head()
        for tag, tagged in repository.tags().items():
            starts[inside(folder / "refs" / "tags" / tag)] = tagged
    except (HubError, ModelNotFound) as error:
        findings.faults.append(str(error))

    reached: set[str] = set()
    for where, start in starts.items():
        name: str | None = start
        while name is not None and name not in reached:
            commit = commits.get(name)
            if commit is None:
                findings.faults.append(f"{where} needs the commit {name}, which does not exist")
                break
            reached.add(name)
            where, name = inside(folder / "commits" / name), commit.parent
    unreached = sorted(commits.keys() - reached)
    findings.dangling += [inside(folder / "commits" / name) for name in unreached]
    findings.commits += len(reached)
    return {entry.sha256: entry for name in reached for entry in commits[name].files.values()}


def _check_packages(store: Store, findings: Findings) -> None:
    """Check that the commits that refs name hold every file of their manifests."""
    for repository in store.repositories():
        # The causes of these failures have already been reported.
        with suppress(HubError, ModelNotFound):
            for ref, name in {MAIN: repository.head(), **repository.tags()}.items():
                findings.faults += [
                    f"{repository.name}@{ref}, commit {name[:12]}: {fault}"
                    for fault in repository.faults(repository.commit(name))
                ]


def _read_commits(
    folder: Path, findings: Findings, inside: Callable[[Path], str]
) -> dict[str, Commit]:
    commits = {}
    for path in _listed(folder, findings, inside):
        if not is_commit(path.name):
            _unexpected(path, findings, inside)
            continue
        try:
            # The repository would return cached commits.
            with open_regular(path) as file:
                commits[path.name] = Commit.decode(path.name, file.read())
        except OSError as error:
            findings.faults.append(f"{inside(path)} cannot be read: {error.strerror}")
        except (RecursionError, ValueError) as error:
            problem = " ".join(str(error).split())
            findings.faults.append(f"{inside(path)} is not a valid commit: {problem}")
    return commits


def _remove(store: Store, findings: Findings, grace: float, *, sure: bool) -> None:
    doomed = [place for place in findings.leftovers if place not in findings.removed]
    if sure:
        limit = time.time() - grace
        old = [each for each in findings.dangling if _changed(store.path / each) <= limit]
        # Commits first, because a commit without its blobs would be a fault.
        doomed += sorted(old, reverse=True)
    for place in doomed:
        path = store.path / place
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        findings.removed.append(place)


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0


def _unexpected(path: Path, findings: Findings, inside: Callable[[Path], str]) -> None:
    if _TEMPORARY.fullmatch(path.name):
        findings.leftovers.append(inside(path))
    else:
        findings.faults.append(f"{inside(path)} does not belong there")


def _listed(folder: Path, findings: Findings, inside: Callable[[Path], str]) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        findings.faults.append(f"{inside(folder)} cannot be read: {error.strerror}")
        return []


def _inside(store: Store) -> Callable[[Path], str]:
    return lambda path: path.relative_to(store.path).as_posix()
