"""An index of a folder of images, kept in step with it.

A document's id is the image's path below the folder. Its metadata are ``folder`` (the path up to
the last slash), ``size``, ``mtime_ns`` and ``sha256``, by which a later run tells what has changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from repzoo_client.retrieval.documents import MAX_ID_BYTES
from repzoo_client.retrieval.errors import InvalidQuery
from repzoo_client.retrieval.index import PosteriorIndex

__all__ = [
    "SUFFIXES",
    "Embedded",
    "Embedder",
    "FolderReport",
    "index_folder",
    "require_images",
]

#: Names of image files end so.
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("avif", "bmp", "gif", "jp2", "jpeg", "jpg", "pbm"),
        *("pgm", "png", "ppm", "tif", "tiff", "webp"),
    )
)


class Embedded(NamedTuple):
    """What an embedder makes of N files.

    Attributes:
        mean: float32 ``[M, D]``, of the M files that are images, in their order.
        variance: float32 ``[M, D]``; None for a model without a posterior.
        uncertainty: float32 ``[M]``; None if the model has none.
        bad: by the place of a file that is no image, what is wrong with it; N − M of them.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    uncertainty: NDArray[np.float32] | None
    bad: dict[int, str]


class Embedder(Protocol):
    """Whatever embeds files: a local model, or a server."""

    def __call__(self, files: Sequence[bytes], /) -> Embedded: ...


@dataclass
class FolderReport:
    """What `index_folder` did.

    Attributes:
        added: images that were not in the index.
        changed: images that were, and have been embedded again.
        unchanged: images that were left as they were.
        dropped: ids of images that are no longer there.
        bad: by path, what is wrong with files that have an image's name; they are not indexed.
        unread: by path, why files, or all of a folder (with a slash behind), could not be read;
            what the index has of them is left as it was.
        ignored: files with other names.
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
    progress: Callable[[int, int], object] | None = None,
) -> FolderReport:
    """Bring an index in step with a folder of images, at any depth.

    What is in the index already, with the same size and time of change, is left as it is; so a run
    that was killed at any moment goes on where it was, and ends with the same index. Hidden files
    and folders are passed over; links to folders are not followed.

    Args:
        index: whose other documents, not of this function, are left alone.
        folder: of images.
        embed: what embeds them.
        keep: leave documents in whose images are gone.
        checksums: read every file, and go by its sha256 alone.
        batch_size: images that are embedded and added at once.
        progress: called with how many images are done, and how many there are.

    Raises:
        InvalidQuery: if there are no images in the folder.
        OSError: if it cannot be read.
    """
    root, report = Path(folder), FolderReport()
    images = _list_images(root, report)
    known = {name: facts for name, facts in index.metadata().items() if "sha256" in facts}
    done = 0
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        _add(index, root, batch, known, embed, checksums, report)
        done += len(batch)
        if progress is not None:
            progress(done, len(images))
    if not keep:
        gone = {*known} - ({*images} - {*report.bad})
        unread = tuple(path for path in report.unread if path.endswith("/"))
        report.dropped = sorted(name for name in gone if not name.startswith(unread))
        index.delete(report.dropped)
    return report


def require_images(folder: str | os.PathLike[str]) -> None:
    """Raise what `index_folder` would if there are no images in a folder, before there is an index.

    Raises:
        As `index_folder`.
    """
    _list_images(Path(folder), FolderReport())


def _list_images(root: Path, report: FolderReport) -> list[str]:
    if not root.is_dir():
        raise InvalidQuery(f"{root} is not a folder")
    images = sorted(_images(root, report))
    if not images:
        # An empty mount point must not empty the index.
        raise InvalidQuery(f"{root} has no images (files named {', '.join(sorted(SUFFIXES))})")
    return images


def _images(root: Path, report: FolderReport) -> Iterator[str]:
    """Paths below the root, with slashes, of files that have an image's name."""

    def cannot_be_read(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        if path == root:
            raise error
        report.unread[f"{path.relative_to(root).as_posix()}/"] = error.strerror or str(error)

    for where, folders, files in os.walk(root, onerror=cannot_be_read):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() not in SUFFIXES:
                report.ignored += 1
                continue
            path = Path(where, name).relative_to(root).as_posix()
            try:
                fits = len(path.encode()) <= MAX_ID_BYTES
            except UnicodeEncodeError:
                path, fits = os.fsencode(path).decode(errors="replace"), False
            if fits:
                yield path
            else:
                report.bad[path] = f"its path is not UTF-8 of at most {MAX_ID_BYTES:,} bytes"


def _add(
    index: PosteriorIndex,
    root: Path,
    paths: Sequence[str],
    known: dict[str, dict[str, Any]],
    embed: Embedder,
    checksums: bool,
    report: FolderReport,
) -> None:
    wanted: list[tuple[str, bytes, dict[str, Any]]] = []
    for path in paths:
        try:
            read = _read(root / path, known.get(path), checksums)
        except FileNotFoundError as error:
            report.bad[path] = error.strerror or str(error)
            continue
        except OSError as error:
            report.unread[path] = error.strerror or str(error)
            continue
        if read is None:
            report.unchanged += 1
        else:
            wanted.append((path, *read))
    if not wanted:
        return
    found = embed([data for _, data, _ in wanted])
    report.bad |= {wanted[place][0]: reason for place, reason in found.bad.items()}
    good = [item for place, item in enumerate(wanted) if place not in found.bad]
    if good:
        index.add(
            [path for path, _, _ in good],
            found.mean,
            found.variance,
            found.uncertainty,
            [{"folder": path.rpartition("/")[0], **facts} for path, _, facts in good],
        )
    changed = sum(path in known for path, _, _ in good)
    report.changed += changed
    report.added += len(good) - changed


def _read(
    path: Path, known: dict[str, Any] | None, checksums: bool
) -> tuple[bytes, dict[str, Any]] | None:
    """A file and what to remember of it; None if it is as it was."""
    status = path.stat()
    facts: dict[str, Any] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    if known is not None and not checksums and facts.items() <= known.items():
        return None
    data = path.read_bytes()
    facts |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if known is not None and checksums and known["sha256"] == facts["sha256"]:
        return None
    return data, facts
