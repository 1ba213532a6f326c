"""An index of images in memory: the nearest of them to an embedding, and small pictures of them.

``zoo index build`` makes the index, and `export` copies its vectors to a file, from which every
worker reads them once. So workers need no Milvus, and the index stays free for other commands.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import InvalidInput, MissingExtra
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.encoder import unit_length
from repzoo.runtime.images import decode

__all__ = ["ImageIndex", "export", "indexed_folder"]

#: The largest side of a small picture.
_SIDE = 256
#: JPEG files are decoded at a smaller scale if that is enough for a small picture.
_SMALL = InputSpec(height=_SIDE, width=_SIDE, channels=3, resize=ResizePolicy(jpeg="scaled"))

#: Distances of this many queries are computed at once, from float32 products.
_QUERIES = 32
#: Candidates beyond k, of which the exact distances are computed too.
_SPARE = 16


class ImageIndex:
    """The vectors of N images, by the path of each image below a folder.

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
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                ids, vectors, info = file["ids"], file["mean"], json.loads(file["info"].item())
            self.model, self.revision = str(info["model"]), str(info["revision"])
            self.holds_content = info.get("posterior") == "content"
            self._is_cosine = info["metric"] == "cosine" and not self.holds_content
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, BadZipFile, EOFError):
            raise InvalidInput(f"{path} is not an export of an index") from None
        if vectors.ndim != 2 or ids.shape != (len(vectors),) or not len(vectors):
            raise InvalidInput(f"{path}: expected the vectors of at least one image")
        self.ids: list[str] = ids.tolist()
        self._known = frozenset(self.ids)
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._squares = np.square(self._vectors).sum(1)
        self._folder = folder

    def __len__(self) -> int:
        return len(self.ids)

    def nearest(
        self, embeddings: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the nearest images to each embedding ``[Q, D]``, nearest first.

        The distance is that of ``zoo index search``: ‖a − b‖², of vectors of length 1 if the model
        recommends cosine similarity.

        Returns:
            Positions in `ids`, int64 ``[Q, K]``, and distances, float32 ``[Q, K]``, where K is the
            smaller of k and N.
        """
        k = min(k, len(self.ids))
        rows = np.empty((len(embeddings), k), np.int64)
        distances = np.empty((len(embeddings), k), np.float32)
        for start in range(0, len(embeddings), _QUERIES):
            part = slice(start, start + _QUERIES)
            rows[part], distances[part] = self._nearest(embeddings[part], k)
        return rows, distances

    def _nearest(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if self._is_cosine:
            queries = unit_length(queries)
        rough = self._squares - 2 * (queries @ self._vectors.T)  # [Q, N], without ‖query‖²
        some = min(k + _SPARE, len(self.ids))
        rows = np.argpartition(rough, some - 1, axis=1)[:, :some]
        rows.sort(axis=1)  # equal distances are ordered by ID
        ways = self._vectors[rows].astype(np.float64) - queries[:, None]  # [Q, some, D]
        exact = np.square(ways).sum(2)
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, order, 1), np.take_along_axis(exact, order, 1)

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


def indexed_folder(index: str | os.PathLike[str]) -> Path | None:
    """Return the folder of the images, as ``zoo index build`` has stored it; None if it has not."""
    try:
        return Path(json.loads((Path(index) / "source.json").read_bytes())["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
