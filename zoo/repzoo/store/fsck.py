"""Is a store what it says, to the last byte; and what lies in it that nothing needs."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
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
# What `write_atomically` had not renamed yet.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")


@dataclass
class Findings:
    """What a check found. Paths are those inside the store."""

    #: what is wrong, each as one sentence that names the file.
    faults: list[str] = field(default_factory=list)
    #: whole blobs and commits that no revision needs; among them what is being uploaded.
    dangling: list[str] = field(default_factory=list)
    #: halves that killed writers left.
    leftovers: list[str] = field(default_factory=list)
    #: what of both was removed.
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
    """Check every blob, commit and ref of a store, which others may go on using meanwhile.

    Args:
        store: the store.
        prune: remove leftovers, and what dangles, unless a ref or a commit is bad: what such a one
            would need only seems to dangle.
        grace: seconds for which a dangling blob or commit is spared, because whoever uploads it
            may be about to need it.
        progress: called with the number of bytes of each piece that was read.

    Raises:
        HubError: if the store cannot be read at all, or not be pruned.
    """
    findings = Findings()
    with as_hub_error(store.spec):
        blobs = dict(_check_blobs(store, findings, progress))
        if not prune:
            findings.leftovers += map(_inside(store), store.blobs.leftovers())
            _check_references(store, blobs, findings)
            return findings
        # No commit can be made now, and so nothing that dangles be needed.
        with store.lock():
            cleared = [_inside(store)(path) for path in store.blobs.clear_leftovers()]
            findings.leftovers += cleared
            findings.removed += cleared
            before = len(findings.faults)
            _check_references(store, blobs, findings)
            _remove(store, findings, grace, sure=len(findings.faults) == before)
    return findings


def _check_blobs(
    store: Store, findings: Findings, progress: Callable[[int], object]
) -> Iterator[tuple[str, int]]:
    """Hash every blob; gives the size of each that is there, right or not."""
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
            continue  # somebody else prunes
        except OSError as error:
            findings.faults.append(f"{where} cannot be read: {error.strerror}")
            continue
        if digest.hexdigest() != path.name:
            findings.faults.append(f"{where} does not have the sha256 of its name")
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
            findings.leftovers.append(inside(folder))  # killed before its first commit was there
        else:
            findings.repositories += 1
            needed |= _check_repository(repository, findings, inside)
    for digest, entry in needed.items():
        # Published since the blobs were listed, it is not among them.
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
    """What the commits that a ref leads to need, by sha256."""
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
                findings.faults.append(f"{where} needs the commit {name}, which is not there")
                break
            reached.add(name)
            where, name = inside(folder / "commits" / name), commit.parent
    unreached = sorted(commits.keys() - reached)
    findings.dangling += [inside(folder / "commits" / name) for name in unreached]
    findings.commits += len(reached)
    return {entry.sha256: entry for name in reached for entry in commits[name].files.values()}


def _read_commits(
    folder: Path, findings: Findings, inside: Callable[[Path], str]
) -> dict[str, Commit]:
    commits = {}
    for path in _listed(folder, findings, inside):
        if not is_commit(path.name):
            _unexpected(path, findings, inside)
            continue
        try:
            # Not by way of the repository, which remembers what it has read.
            with open_regular(path) as file:
                commits[path.name] = Commit.decode(path.name, file.read())
        except OSError as error:
            findings.faults.append(f"{inside(path)} cannot be read: {error.strerror}")
        except (RecursionError, ValueError) as error:
            problem = " ".join(str(error).split())
            findings.faults.append(f"{inside(path)} is no commit: {problem}")
    return commits


def _remove(store: Store, findings: Findings, grace: float, *, sure: bool) -> None:
    doomed = [place for place in findings.leftovers if place not in findings.removed]
    if sure:
        limit = time.time() - grace
        old = [each for each in findings.dangling if _changed(store.path / each) <= limit]
        # Commits first: one whose blobs are gone would be a fault.
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
