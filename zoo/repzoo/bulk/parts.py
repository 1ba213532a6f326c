"""Computing the rows of parts, for every engine."""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from repzoo.bulk.decoding import Batch, Decoded, Decoders
from repzoo.bulk.job import LISTING, Job, part_name
from repzoo.bulk.places import Place
from repzoo.bulk.sources import Source
from repzoo.bulk.streams import open_parquet
from repzoo.runtime.encoder import Encoder, unit_length

__all__ = ["FinishedPart", "embed_parts"]

T = TypeVar("T")

# Images that the encoder takes at once. Which images share a run of the encoder must depend on
# nothing but their positions.
_RUN = 256

# Images that a process decodes at a time, divisors of the number above: few large ones, so that a
# few hundred photos keep all cores busy, and many small ones, which take less time than passing
# them on.
_SMALL, _LARGE = 64, 8
_LARGE_BYTES = 2**16


class FinishedPart(NamedTuple):
    """A part whose file has been written."""

    part: int
    images: int
    #: The number of images with an error.
    failed: int


def embed_parts(
    job: Job,
    parts: Iterable[int],
    folder: Place,
    encoder: Encoder,
    decoders: Decoders,
    advance: Callable[[int], object] = lambda _: None,
) -> Iterator[FinishedPart]:
    """Write the files of parts; yield each part once its file exists.

    Args:
        job: The description of the run.
        parts: The numbers of the parts, in ascending order.
        folder: The folder of the parts, with the listing of the source.
        encoder: The encoder of the job.
        decoders: Decoders for the encoder's input.
        advance: Called with the number of images embedded since the last call.
    """
    source = Source(job.source)
    with open_parquet((folder / LISTING).buffered()) as listing:
        size = _batch_size(job, listing)
        batches = _batches(job, parts, source, listing, size)
        # Reading waits for a disk or a network, so it runs in another thread.
        for part, decoded in groupby(decoders.map(_ahead(batches)), lambda batch: batch.part):
            rows = _Rows(job)
            while some := list(islice(decoded, _RUN // size)):
                rows.add(some, encoder)
                advance(sum(len(batch.ids) for batch in some))
            (folder / part_name(part)).write(rows.parquet())
            yield FinishedPart(part, len(rows.ids), len(rows.errors))


def _batch_size(job: Job, listing: pq.ParquetFile) -> int:
    sizes = listing.read(columns=["size"], use_threads=False)["size"]
    return _SMALL if sum(sizes.to_pylist()) < _LARGE_BYTES * job.images else _LARGE


def _batches(
    job: Job, parts: Iterable[int], source: Source, listing: pq.ParquetFile, size: int
) -> Iterator[Batch]:
    # Consecutive parts are read together.
    for _, run in groupby(enumerate(parts), lambda pair: pair[1] - pair[0]):
        numbers = [part for _, part in run]
        start, stop = job.range(numbers[0])[0], job.range(numbers[-1])[1]
        items = source.items(listing, job.kind, start, stop)
        for part in numbers:
            first, end = job.range(part)
            for at in range(first, end, size):
                yield Batch(part, source.fetch(list(islice(items, min(size, end - at)))))


class _Rows:
    """The rows of one part, as they are computed."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._columns: dict[str, list[np.ndarray]] = {}
        self.ids: list[str] = []
        #: By position in the part.
        self.errors: dict[int, str] = {}

    def add(self, batches: list[Decoded], encoder: Encoder) -> None:
        """Embed the images of several batches at once."""
        for batch in batches:
            for number, error in batch.errors.items():
                self.errors[len(self.ids) + number] = error
            self.ids += batch.ids
        pixels = np.concatenate([batch.pixels for batch in batches])
        if not len(pixels):
            return
        job = self._job
        outputs = encoder.outputs(
            pixels, uncertainty=job.uncertainty, content=job.robust, batch_size=len(pixels)
        )
        if job.uncertainty:
            self._keep("uncertainty", outputs["uncertainty"])
        if job.posterior and job.robust:
            self._keep("variance", outputs["content_variance"])
        elif job.posterior:
            self._keep("variance", np.exp(outputs["log_variance"]))
        embedding = outputs["content_mean" if job.robust else "embedding"]
        self._keep("embedding", unit_length(embedding) if job.normalize else embedding)

    def parquet(self) -> bytes:
        """Return the content of the part's file."""
        bad = np.zeros(len(self.ids), bool)
        bad[list(self.errors)] = True
        columns = []
        for field in self._job.schema:
            if field.name == "id":
                columns.append(pa.array(self.ids, field.type))
            elif field.name == "error":
                texts = [self.errors.get(row) for row in range(len(bad))]
                columns.append(pa.array(texts, field.type))
            else:
                columns.append(_column(field.type, self._columns.get(field.name, []), bad))
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(columns, schema=self._job.schema), buffer)
        return buffer.getvalue()

    def _keep(self, name: str, rows: np.ndarray) -> None:
        self._columns.setdefault(name, []).append(rows)


def _column(kind: pa.DataType, chunks: list[np.ndarray], bad: np.ndarray) -> pa.Array:
    """Return a column with the values of the good rows, and nulls in the bad ones."""
    mask = pa.array(bad)
    vectors = pa.types.is_fixed_size_list(kind)
    values = np.zeros((len(bad), kind.list_size) if vectors else len(bad), np.float32)
    if chunks:
        values[~bad] = np.concatenate(chunks)
    if vectors:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind, mask=mask)
    return pa.array(values, kind, mask=bad)


def _ahead(items: Iterable[T], count: int = 4) -> Iterator[T]:
    """Yield the items. A thread computes a few of them in advance."""
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(count)
    left = threading.Event()

    def offer(item: T | None, error: BaseException | None) -> None:
        while not left.is_set():
            try:
                made.put((item, error), timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        end: BaseException = StopIteration()
        try:
            for item in items:
                offer(item, None)
                if left.is_set():
                    return
        except BaseException as error:
            end = error
        offer(None, end)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        left.set()
        thread.join()
