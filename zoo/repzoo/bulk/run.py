"""Embedding a source into an output, on this machine or a cluster; safe to repeat."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from repzoo.bulk.decoding import Decoders, usable_cores
from repzoo.bulk.job import JOB, LISTING, Job, part_name
from repzoo.bulk.parts import embed_parts
from repzoo.bulk.places import Place
from repzoo.bulk.skipping import bad_files, left_out
from repzoo.bulk.sources import Source
from repzoo.bulk.streams import open_parquet
from repzoo.errors import Conflict, HubError, InvalidInput, UnsupportedOperation
from repzoo.files import locked, no_space_at
from repzoo.loading import load
from repzoo.runtime.encoder import NO_CONTENT
from repzoo.runtime.sessions import Provider

__all__ = ["Engine", "Summary", "embed_all"]

Engine = Literal["local", "ray"]

_LOCK = "lock"

#: Below this number of images and of bytes, starting processes takes longer than decoding.
_FEW = 512
_SMALL = 2**25


@dataclass(frozen=True)
class Summary:
    """The result of a run."""

    out: str
    job: Job
    #: Number of images that have an error instead of an embedding.
    failed: int
    #: IDs and errors of the first few such images.
    examples: tuple[tuple[str, str], ...]
    #: Number of files of the source that are neither images nor Parquet files.
    skipped: int
    #: Number of images that this run embedded; earlier runs did the others.
    done_now: int
    seconds: float

    def unread(self) -> str:
        """The images without an embedding, for people; empty if there are none."""
        reasons = [f"{name}: {error}" for name, error in self.examples]
        rest = f"all are in the column 'error' of {self.out}"
        return left_out(self.failed, self.job.images, reasons, rest)


def embed_all(
    source: str,
    out: str,
    model: str,
    *,
    hub: str | None = None,
    posterior: bool = False,
    robust: bool = False,
    normalize: bool = False,
    provider: Provider | None = None,
    engine: Engine = "local",
    workers: int | None = None,
    part_size: int = 4096,
    overwrite: bool = False,
    max_skipped: float = 1.0,
) -> Summary:
    """Embed all images of a source into one Parquet file.

    If the call is interrupted in any way, even by SIGKILL, the same call resumes after the last
    finished part (the parts are in ``OUT.parts``), and ends with the same bytes. The output appears
    when it is complete. Embeddings are float32 lists of a fixed size. An image that cannot be read
    or decoded has nulls and an error instead.

    Args:
        source: An image, a folder, a pattern, or one or more Parquet files as in Hugging Face
            ``datasets``; or a URL of any of these that fsspec understands.
        out: The path or URL of the output.
        model: The argument of `repzoo.load`.
        hub: The hub of a model that is given by name.
        posterior: Add the column ``variance``.
        robust: Embed by the content mean, and add the content variance with ``posterior``.
        normalize: Divide each embedding by its Euclidean length.
        provider: "cpu" or "cuda"; the default is CUDA if it works.
        engine: "local", or "ray" for the cluster at ``RAY_ADDRESS`` or one that is started here.
        workers: The number of processes that decode (0 decodes in this one) or, with Ray, embed.
            Default: one per core.
        part_size: The number of images per part.
        overwrite: Discard the output and the parts of another run.
        max_skipped: The share of images that may have an error; one always may, unless it is 0.

    Raises:
        Conflict: If the output or its parts belong to another run.
        InvalidInput: If the source holds no images, too many have an error, or an argument is
            invalid. Finished parts are kept.
        UnsupportedOperation: If a requested posterior or content posterior does not exist.
        MissingExtra: If a required library is not installed.
        HubError, OSError: If something cannot be read or written.
    """
    if not out.endswith(".parquet"):
        raise InvalidInput(f"--out {out}: expected a name that ends in .parquet")
    start = time.monotonic()
    encoder = load(model, hub=hub, provider=provider)
    if robust and encoder.config.content is None:
        raise UnsupportedOperation(f"{encoder.config.name} {NO_CONTENT}")
    if posterior and not robust and not encoder.config.has_posterior:
        raise UnsupportedOperation(f"{encoder.config.name} has no posterior")
    target = Place.of(out)
    folder = target.at(f"{target.path}.parts")
    found = Source(source)
    listing = found.look(besides=target)
    job = Job.make(
        encoder,
        posterior=posterior,
        robust=robust,
        normalize=normalize,
        source=str(found),
        source_digest=listing.digest,
        kind=listing.kind,
        images=listing.images,
        part_size=part_size,
    )
    with _alone(folder):
        if overwrite:
            _empty(folder)
            target.remove()
        done_now = 0
        if not _is_there(job, target):
            _begin(job, folder, listing.data)
            there = folder.names()
            missing = [n for n in range(job.parts) if part_name(n) not in there]
            done_now = sum(stop - first for first, stop in map(job.range, missing))
            with _bar(job, done_now) as bar:
                if engine == "ray":
                    from repzoo.bulk.on_ray import embed_on_ray

                    for part in embed_on_ray(job, missing, folder, model, hub, workers):
                        bar.update(part.images)
                elif missing:
                    if workers is None:
                        small = listing.images < _FEW and listing.size < _SMALL
                        workers = 0 if small else usable_cores()
                    with Decoders(encoder.config.input, workers) as decoders:
                        for _ in embed_parts(job, missing, folder, encoder, decoders, bar.update):
                            pass
            _join(job, folder, target, max_skipped)
        failed, examples = _failures(target, job, max_skipped)
        _empty(folder)
    seconds = time.monotonic() - start
    return Summary(str(target), job, failed, examples, listing.skipped, done_now, seconds)


def _is_there(job: Job, target: Place) -> bool:
    """Return whether the output is finished.

    Raises:
        Conflict: If the file is something else.
    """
    if not target.exists():
        return False
    found = Job.of_output(target)
    if found is None:
        raise Conflict(
            f"{target} exists and was not written by zoo embed; use --overwrite to replace it"
        )
    job.require_same(target, found)
    return True


def _begin(job: Job, folder: Place, listing: bytes) -> None:
    """Write the job's description and listing into the folder, unless they are there.

    Raises:
        Conflict: If the folder belongs to another job.
    """
    if (folder / JOB).exists():
        job.require_same(folder, json.loads((folder / JOB).read()))
        return
    (folder / LISTING).write(listing)
    (folder / JOB).write(job.to_json())


def _join(job: Job, folder: Place, target: Place, max_skipped: float) -> None:
    """Join the parts into the output, with a row group for each, unless too many images failed."""
    with _scratch(folder) as made:
        with no_space_at(made), pq.ParquetWriter(made, job.schema) as writer:
            for number in range(job.parts):
                part = folder / part_name(number)
                first, stop = job.range(number)
                try:
                    with part.buffered() as stream, open_parquet(stream) as file:
                        table = file.read(use_threads=False)
                except pa.ArrowException as error:
                    raise HubError(
                        f"{part} is damaged ({error}); remove it and try again"
                    ) from None
                if len(table) != stop - first:
                    raise HubError(
                        f"{part} has {len(table)} rows, expected {stop - first}; remove it and try "
                        "again"
                    )
                writer.write_table(table, row_group_size=len(table))
        try:
            _failures(Place.of(str(made)), job, max_skipped)
        except InvalidInput:
            made.unlink()
            raise
        target.take(made)


@contextmanager
def _scratch(folder: Place) -> Iterator[Path]:
    """Yield a path for joining: in the folder of the parts if it is local, or a temporary one."""
    if folder.is_local:
        yield folder.local / "joined"
        return
    with tempfile.TemporaryDirectory(prefix="zoo-embed-") as scratch:
        yield Path(scratch) / "joined"


def _failures(
    target: Place, job: Job, max_skipped: float, most: int = 5
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Return the number of images with an error, and the first few of them.

    Raises:
        InvalidInput: If there are too many.
    """
    failed, examples = 0, []
    with target.open() as stream, open_parquet(stream) as file:
        for number in range(file.num_row_groups):
            # The statistics of most row groups show that they have no errors.
            group = file.metadata.row_group(number)
            statistics = group.column(group.num_columns - 1).statistics
            if statistics is not None and statistics.null_count == group.num_rows:
                continue
            table = file.read_row_group(number, columns=["id", "error"], use_threads=False)
            bad = table.filter(table["error"].is_valid())
            failed += len(bad)
            examples += [(row["id"], row["error"]) for row in bad.slice(0, most).to_pylist()]
    reasons = [f"{name}: {error}" for name, error in examples]
    if message := bad_files(failed, job.images, max_skipped, reasons):
        raise InvalidInput(message)
    return failed, tuple(examples[:most])


def _empty(folder: Place) -> None:
    for name in folder.names() - {_LOCK}:
        (folder / name).remove()


@contextmanager
def _alone(folder: Place) -> Iterator[None]:
    """Keep other runs on this machine away from the same output; leave no empty folder."""
    if not folder.is_local:
        yield
        return
    lock = folder.local / _LOCK
    while True:
        folder.local.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(lock, str(folder)))
            except FileNotFoundError:
                continue
            if not lock.exists():
                continue  # the run that held it has finished and removed it
            try:
                yield
            finally:
                if folder.names() == {_LOCK}:
                    lock.unlink()
                    with suppress(OSError):  # another run has just created its own lock
                        folder.local.rmdir()
            return


def _bar(job: Job, todo: int) -> tqdm[NoReturn]:
    # disable=None: only on a terminal.
    return tqdm(
        total=job.images,
        initial=job.images - todo,
        desc=job.model,
        unit=" images",
        unit_scale=True,
        disable=None,
    )
