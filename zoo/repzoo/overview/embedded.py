"""The embeddings of all images of a source, by `zoo embed`, and access to the images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from repzoo.bulk.places import Place
from repzoo.bulk.run import embed_all
from repzoo.bulk.sources import Source
from repzoo.errors import Conflict, InvalidImage, InvalidInput
from repzoo.loading import load
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.runtime.encoder import Encoder, unit_length
from repzoo.runtime.images import decode

__all__ = ["Embedded"]

_FILE = "embeddings.parquet"
_SCALED = ResizePolicy(jpeg="scaled")


class Embedded:
    """The images of a source that can be read.

    Attributes:
        source: The source, as text.
        encoder: The encoder.
        ids: The N images, by their paths below the source.
        vectors: float32 ``[N, D]``; of length 1 if the model compares by cosine.
        uncertainty: float32 ``[N]``, or None if the model has none.
        summary: What `zoo embed` did, which lists the images that cannot be read.
        file: The Parquet file with the embeddings and errors.
    """

    def __init__(
        self,
        source: str,
        out: Path,
        model: str,
        *,
        hub: str | None = None,
        overwrite: bool = False,
        max_skipped: float = 1.0,
    ) -> None:
        """Embed the images of a source into the folder ``out``, or continue, or read the result.

        Raises:
            Conflict: If ``out`` holds the embeddings of other images or of another model.
            InvalidInput: If ``out`` is in the source, no image can be read, or too many cannot.
            RepzooError, OSError: If the model cannot be loaded, or something cannot be read.
        """
        if Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
            raise InvalidInput(f"{out} is in {source}: choose an --out outside of the source")
        out.mkdir(parents=True, exist_ok=True)
        self.file = out / _FILE
        self.encoder: Encoder = load(model, hub=hub)
        normalize = self.encoder.config.metric == "cosine"
        self.summary = embed_all(
            source,
            str(self.file),
            model,
            hub=hub,
            normalize=normalize,
            overwrite=overwrite,
            max_skipped=max_skipped,
        )
        table = pq.read_table(self.file, use_threads=False)
        good = table["error"].is_null().to_numpy()
        if not good.any():
            raise InvalidInput(f"{source}: none of its images can be read")
        self._rows = np.flatnonzero(good)
        table = table.filter(good)
        self.ids: list[str] = table["id"].to_pylist()
        flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self.vectors: NDArray[np.float32] = flat.reshape(len(self.ids), -1)
        self.uncertainty: NDArray[np.float32] | None = None
        if "uncertainty" in table.column_names:
            self.uncertainty = table["uncertainty"].to_numpy()
        found = Source(source)
        self.source = str(found)
        listing = found.look(besides=Place.of(str(self.file)))
        if listing.digest != self.summary.job.source_digest:
            raise Conflict(f"{source} has changed while it was read: try again")
        self._found, self._kind = found, listing.kind
        self._listing = pq.ParquetFile(io.BytesIO(listing.data), pre_buffer=False)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, number: int, side: int) -> Image.Image | None:
        """Return an image, upright and in mode L or RGB, or None if it is no longer there.

        Large JPEG files are decoded at a half, a quarter or an eighth of their size, with sides of
        at least ``2 * side`` pixels.
        """
        row = int(self._rows[number])
        (item,) = self._found.fetch(
            list(self._found.items(self._listing, self._kind, row, row + 1))
        )
        if item.error is not None:
            return None
        try:
            data = Path(item.data).read_bytes() if isinstance(item.data, str) else item.data
            return decode(data, InputSpec(height=side, width=side, channels=3, resize=_SCALED))
        except (InvalidImage, OSError):
            return None

    def embed(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """Embed other images in the same way: float32 ``[N, D]``."""
        vectors = self.encoder.embed(images)
        return unit_length(vectors) if self.encoder.config.metric == "cosine" else vectors
