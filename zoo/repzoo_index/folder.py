"""Keeping an index in step with a folder of images.

A document's ID is the image's path below the folder. Its metadata are ``folder`` (the path up to
the last slash), ``size``, ``mtime_ns`` and ``sha256``, which tell a later run what has changed.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from repzoo.bulk.decoding import usable_cores
from repzoo.bulk.folders import printable_path, walk
from repzoo.bulk.formats import is_image_name
from repzoo.errors import InvalidInput
from repzoo_client.retrieval import PosteriorIndex
from repzoo_client.retrieval.documents import MAX_ID_BYTES

__all__ = ["Embedded", "Embedder", "FolderReport", "index_folder", "require_images"]


class Embedded(NamedTuple):
    """The posteriors of N files.

    Attributes:
        mean: float32 ``[M, D]``, of the M files that could be decoded, in their order.
        variance: float32 ``[M, D]``; None if the model has no posterior.
        uncertainty: float32 ``[M]``; None if the model has no uncertainty.
        bad: Why the other N − M files could not be decoded, by position.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    uncertainty: NDArray[np.float32] | None
    bad: dict[int, str]


#: Embeds the contents of files, with a local model or a server. It is called from several threads,
#: once or more per batch.
Embedder: TypeAlias = Callable[[Sequence[bytes]], Embedded]

#: Batches that are read and embedded while another one is added to the index.
_AHEAD = 2
#: Once this many bytes of files per core have been read, they are embedded and freed before more
#: are read: large photos would fill the memory otherwise.
_HELD_BYTES = 2**24


@dataclass
class FolderReport:
    """What `index_folder` did.

    Attributes:
        added: Number of images that are new in the index.
        changed: Number of images that were embedded again.
        unchanged: Number of images that were left as they were.
        dropped: IDs of documents whose images no longer exist.
        bad: Files with an image's name that are not indexed, and why, by path.
        unread: Files and folders (with a slash at the end) that could not be read, and why, by
            path. Their documents are left as they were.
        ignored: Number of files with other names.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    dropped: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    ignored: int = 0


def index_folder(
    index: PosteriorIndex,
    folder: str | os.PathLike[str],
    embed: Embedder,
    *,
    keep: bool = False,
    checksums: bool = False,
    batch_size: int = 64,
    started: Callable[[], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> FolderReport:
    """Add, update and drop documents until an index matches a folder of images, at any depth.

    Images whose size and modification time have not changed are left as they are. A run that was
    killed at any moment can be repeated, and ends with the same index. `repzoo.bulk.folders` says
    how links and hidden files are treated.

    Args:
        index: The index. Documents that this function did not add are left alone.
        folder: A folder of images.
        embed: Embeds the images.
        keep: Keep documents whose images no longer exist.
        checksums: Read every file, and compare its sha256 instead of size and time.
        batch_size: Number of images that are added at once. Large files are embedded in smaller
            groups, so that few of them are in memory at a time.
        started: Called when there are images, before the index changes.
        progress: Called with the number of images done and the total.

    Raises:
        InvalidInput: If there are no images in the folder.
        OSError: If the folder cannot be read.
    """
    root, report = Path(folder), FolderReport()
    images = _list_images(root, report)
    if started is not None:
        started()
    known = {name: facts for name, facts in index.metadata().items() if "sha256" in facts}
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    done = 0

    def work(paths: list[str]) -> _Batch:
        return _embed(root, paths, known, embed, checksums)

    with closing(_in_order(work, batches)) as embedded:
        for batch in embedded:
            _add(index, batch, known, report)
            done += batch.images
            if progress is not None:
                progress(done, len(images))
    if not keep:
        gone = {*known} - ({*images} - {*report.bad}) - {*report.unread}
        folders = tuple(path for path in report.unread if path.endswith("/"))
        report.dropped = sorted(name for name in gone if not name.startswith(folders))
        index.delete(report.dropped)
    return report


def require_images(folder: str | os.PathLike[str]) -> None:
    """Raise the errors of `index_folder` for a folder without images, before an index exists."""
    _list_images(Path(folder), FolderReport())


def _list_images(root: Path, report: FolderReport) -> list[str]:
    """Return the paths below the root, with slashes, of files that have an image's name."""
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder")
    images = []
    for entry in walk(root):
        path = printable_path(entry.path)
        if not entry.path.endswith("/") and not is_image_name(entry.path):
            report.ignored += 1
        elif path != entry.path or len(path.encode()) > MAX_ID_BYTES:
            report.bad[path] = f"its path is not UTF-8 text of at most {MAX_ID_BYTES:,} bytes"
        elif entry.error is None:
            images.append(path)
        else:
            reason = entry.error.strerror or str(entry.error)
            (report.bad if entry.is_gone else report.unread)[path] = reason
    if not images:
        # Do not empty the index because of an empty mount point.
        raise InvalidInput(f"{root} holds no images ({report.ignored:,} other files)")
    return images


class _Batch(NamedTuple):
    """Consecutive images of a folder, after embedding."""

    #: How many images there were.
    images: int
    unchanged: int
    #: The paths and metadata of the images that were embedded, in their order.
    good: list[tuple[str, dict[str, Any]]]
    embedded: Embedded | None
    bad: dict[str, str]
    unread: dict[str, str]


def _in_order(
    embed: Callable[[list[str]], _Batch], batches: list[list[str]]
) -> Generator[_Batch, None, None]:
    """Yield the batches, embedded. Threads work on the next ones meanwhile."""
    pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="index")
    waiting: deque[Future[_Batch]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(embed, batch))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Not waited for: the model's own threads end when it is closed, and end these.
        pool.shutdown(wait=False, cancel_futures=True)


def _embed(
    root: Path,
    paths: list[str],
    known: dict[str, dict[str, Any]],
    embed: Embedder,
    checksums: bool,
) -> _Batch:
    unchanged, bad, unread = 0, {}, {}
    good: list[tuple[str, dict[str, Any]]] = []
    parts: list[Embedded] = []
    wanted: list[tuple[str, bytes, dict[str, Any]]] = []

    def embed_wanted() -> None:
        """Embed the files that were read, and free their contents."""
        if not wanted:
            return
        found = embed([data for _, data, _ in wanted])
        parts.append(found)
        for place, (path, _, facts) in enumerate(wanted):
            if place in found.bad:
                bad[path] = found.bad[place]
            else:
                good.append((path, facts))
        wanted.clear()

    held, most = 0, _HELD_BYTES * usable_cores()
    for path in paths:
        try:
            read = _read(root / path, known.get(path), checksums)
        except FileNotFoundError as error:
            bad[path] = error.strerror or str(error)
            continue
        except OSError as error:
            unread[path] = error.strerror or str(error)
            continue
        if read is None:
            unchanged += 1
            continue
        wanted.append((path, *read))
        held += len(read[0])
        if held >= most:
            embed_wanted()
            held = 0
    embed_wanted()
    return _Batch(len(paths), unchanged, good, _joined(parts), bad, unread)


def _joined(parts: list[Embedded]) -> Embedded | None:
    """Join what was embedded, without the files that could not be decoded."""
    if not parts:
        return None
    mean, variance, uncertainty = (
        None if column[0] is None else np.concatenate(column)
        for column in zip(*(part[:3] for part in parts), strict=True)
    )
    assert mean is not None
    return Embedded(mean, variance, uncertainty, {})


def _add(
    index: PosteriorIndex, batch: _Batch, known: dict[str, dict[str, Any]], report: FolderReport
) -> None:
    report.unchanged += batch.unchanged
    report.bad |= batch.bad
    report.unread |= batch.unread
    if batch.embedded is None or not batch.good:
        return
    index.add(
        [path for path, _ in batch.good],
        batch.embedded.mean,
        batch.embedded.variance,
        batch.embedded.uncertainty,
        [{"folder": path.rpartition("/")[0], **facts} for path, facts in batch.good],
    )
    changed = sum(path in known for path, _ in batch.good)
    report.changed += changed
    report.added += len(batch.good) - changed


def _read(
    path: Path, known: dict[str, Any] | None, checksums: bool
) -> tuple[bytes, dict[str, Any]] | None:
    """Return a file and its metadata, or None if it has not changed."""
    status = path.stat()
    facts: dict[str, Any] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    if known is not None and not checksums and facts.items() <= known.items():
        return None
    data = path.read_bytes()
    facts |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if known is not None and checksums and known["sha256"] == facts["sha256"]:
        return None
    return data, facts
