"""An index of images in memory: the nearest of them to an embedding, and small pictures of them.

``zoo index build`` makes the index, and `export` copies its vectors to a file, from which every
worker reads them once. So workers need no Milvus, and the index stays free for other commands.
"""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import InvalidInput, MissingExtra, UnsupportedOperation
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.images import decode

from repzoo_serving.wire.request_bodies import Metric

if TYPE_CHECKING:
    from repzoo_client.retrieval.ranking import Ranking

__all__ = ["Found", "ImageIndex", "Moments", "export"]

Floats: TypeAlias = NDArray[np.float32]

#: The largest side of a small picture.
_SIDE = 256
#: JPEG files are decoded at a smaller scale if that is enough for a small picture.
_SMALL = InputSpec(height=_SIDE, width=_SIDE, channels=3, resize=ResizePolicy(jpeg="scaled"))

#: Distances of at most this many queries are computed at once, and of this many numbers.
_QUERIES = 32
_NUMBERS = 2**22


@dataclass(frozen=True)
class Moments:
    """Posteriors: float32 means and variances ``[N, D]``, or points whose variances are 0."""

    mean: Floats
    variance: Floats

    def __getitem__(self, rows: slice | NDArray[Any]) -> Moments:
        return Moments(self.mean[rows], self.variance[rows])


@dataclass(frozen=True)
class Found:
    """The nearest images to one query: positions in `ImageIndex.ids`, and float32 distances."""

    rows: NDArray[np.int64]
    distances: Floats


class ImageIndex:
    """The posteriors of N images, by the path of each image below a folder.

    Args:
        path: A file that `export` has written.
        folder: The folder of the images; without it, there are no pictures.

    Attributes:
        ids: The paths, sorted.
        model: The name of the model that made the vectors.
        revision: The revision of that model.
        holds_content: Whether the vectors are content means.

    Raises:
        InvalidInput: If the file is not such an export.
        MissingExtra: If repzoo-client is not installed, which computes the distances.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        try:
            from repzoo_client.retrieval import IndexInfo
            from repzoo_client.retrieval.documents import vectors
        except ImportError as error:
            raise MissingExtra("zoo serve --index", "retrieval", error) from error
        try:
            with np.load(path, allow_pickle=False) as file:
                self._info = IndexInfo(**json.loads(file["info"].item()))
                self._all = Moments(file["mean"], file["variance"])
                self._uncertainty, ids = file["uncertainty"], file["ids"]
            shape = (len(ids), self._info.dim)
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, BadZipFile, EOFError):
            raise InvalidInput(f"{path} is not an export of an index") from None
        if not len(ids) or not self._all.mean.shape == self._all.variance.shape == shape:
            raise InvalidInput(f"{path}: expected the vectors of at least one image")
        self.model, self.revision = self._info.model, self._info.revision
        self.holds_content = self._info.posterior == "content"
        self.ids: list[str] = ids.tolist()
        self._known = frozenset(self.ids)
        self._vectors_of = vectors
        #: The vectors of each field that was searched, and their squared lengths.
        self._fields: dict[str, tuple[Floats, Floats]] = {}
        self._folder = folder

    def __len__(self) -> int:
        return len(self.ids)

    def describe(self) -> dict[str, Any]:
        """Return the member ``index`` of the model's entry in ``/models``."""
        from repzoo_client.retrieval import InvalidQuery

        metrics = []
        for metric in get_args(Metric):
            with suppress(InvalidQuery):
                self._info.ranking(metric)
                metrics.append(metric)
        return {"count": len(self), "posterior": self._info.posterior, "metrics": metrics}

    def ranking(self, metric: str) -> Ranking:
        """Return how a metric of `PosteriorIndex.search` ranks the images.

        Raises:
            UnsupportedOperation: If the index does not have this metric.
        """
        from repzoo_client.retrieval import InvalidQuery

        try:
            return self._info.ranking(metric, where="the server's index")  # type: ignore[arg-type]
        except InvalidQuery as error:
            raise UnsupportedOperation(str(error)) from None

    def search(
        self, queries: Moments, k: int, ranking: Ranking, max_uncertainty: float | None = None
    ) -> list[Found]:
        """Return the k nearest images to each query, nearest first; equal ones are ordered by ID.

        Results are those of `PosteriorIndex.search`.

        Args:
            queries: The queries; the index scales them as its own means.
            k: The number of images. If there are fewer, all of them are found.
            ranking: From `ranking`.
            max_uncertainty: Skip images whose uncertainty is larger or unknown.
        """
        allowed: NDArray[np.bool_] | None = None
        if max_uncertainty is not None:
            allowed = self._uncertainty <= max_uncertainty
        there = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if self._info.distance == "cosine":
            length = np.linalg.norm(queries.mean, axis=1, keepdims=True)
            length[length == 0] = 1
            queries = Moments(queries.mean / length, queries.variance / length**2)
        some = min(ranking.candidates(k), there)
        step = max(1, min(_QUERIES, _NUMBERS // max(1, some * self._info.dim)))
        found: list[Found] = []
        for start in range(0, len(queries.mean), step):
            part = queries[start : start + step]
            rows = self._candidates(part, ranking.field, some, allowed)
            near, uncertainty = self._all[rows], self._uncertainty[rows]
            distances = ranking.distances(
                part.mean[:, None], part.variance[:, None], near.mean, near.variance, uncertainty
            )
            order = np.argsort(distances, axis=1, kind="stable")[:, :k]
            nearest = np.take_along_axis(distances, order, 1).astype(np.float32)
            found += map(Found, np.take_along_axis(rows, order, 1), nearest)
        return found

    def _candidates(
        self, queries: Moments, field: str, some: int, allowed: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Return the rows nearest to each query by a field's vectors, sorted: ``[Q, some]``."""
        if field not in self._fields:
            made = self._vectors_of(self._all.mean, self._all.variance, field)
            self._fields[field] = np.ascontiguousarray(made, np.float32), np.square(made).sum(1)
        vectors, squares = self._fields[field]
        asked = self._vectors_of(queries.mean, queries.variance, field, query=True)
        rough = squares - 2 * (asked @ vectors.T)  # [Q, N], without the square of the query
        if allowed is not None:
            rough[:, ~allowed] = np.inf
        if some < rough.shape[1]:
            rows = np.argpartition(rough, max(0, some - 1), axis=1)[:, :some]
            rows.sort(axis=1)  # IDs are sorted, too
            return rows
        return np.broadcast_to(np.arange(some), rough.shape)

    def picture(self, name: str, max_pixels: int) -> tuple[str, bytes]:
        """Return a small picture of an image of the index: its media type and the file.

        The image is decoded and encoded again, so nothing but pixels ever leaves the folder.

        Raises:
            KeyError: If the index does not hold the image, or its folder is unknown.
            OSError: If the file cannot be read.
            InvalidImage: If it is not an image, or has more than ``max_pixels``.
        """
        if name not in self._known or self._folder is None:
            raise KeyError(name)
        path = self._folder / name
        if not path.is_file():  # a pipe would block
            raise FileNotFoundError(str(path))
        image = decode(path.read_bytes(), _SMALL, max_pixels=max_pixels)
        kind = "PNG" if max(image.size) <= _SIDE else "JPEG"
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        image.save(buffer, kind, **({"quality": 85} if kind == "JPEG" else {}))
        return f"image/{kind.lower()}", buffer.getvalue()


def export(index: str | os.PathLike[str], file: Path) -> None:
    """Write the vectors of an index, a folder or the URI of a Milvus server, to a file.

    Raises:
        InvalidInput: If the index does not exist, is in use, or cannot be read.
        MissingExtra: If Milvus is not installed.
    """
    try:
        from repzoo_client.retrieval import ClientError, PosteriorIndex, RetrievalMissing
    except ImportError as error:
        raise MissingExtra("zoo serve --index", "retrieval", error) from error
    token = os.environ.get("REPZOO_MILVUS_TOKEN") or None
    try:
        with PosteriorIndex.open(index, token=token) as opened:
            opened.export(file)
    except RetrievalMissing as error:
        raise MissingExtra("zoo serve --index", "retrieval") from error
    except ClientError as error:
        raise InvalidInput(str(error)) from error
