"""The command `zoo index`: build an index of a folder of images, and search it."""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click
from repzoo.commands.arguments import hub_option, skipping_options
from repzoo.errors import InvalidInput, MissingExtra, ModelNotFound
from repzoo.index_source import IndexSource, image_folder, warning
from repzoo.report import SOME_FAILED, Report, format_table, reporting

if TYPE_CHECKING:
    from repzoo_client.retrieval import PosteriorIndex
    from repzoo_client.retrieval.ranking import Distance, Metric

__all__ = ["index"]

P = ParamSpec("P")

_METRICS = ("mean", "trusted", "w2", "csd", "content", "robust", "euclidean", "cosine")

#: How long to wait for another process that has the index open, in seconds.
_PATIENCE = 60


def _retrieval(command: Callable[P, Report]) -> Callable[P, Report]:
    """Turn the client's errors into repzoo's, which the command line can show."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> Report:
        try:
            from repzoo_client.retrieval import ClientError, RetrievalMissing
        except ImportError as error:
            raise MissingExtra("zoo index", "retrieval", error) from error
        try:
            return command(*args, **kwargs)
        except RetrievalMissing as error:
            cause = error.__cause__ if isinstance(error.__cause__, ImportError) else None
            raise MissingExtra("zoo index", "retrieval", cause) from error
        except ClientError as error:
            raise InvalidInput(str(error)) from error

    return run


index_option = click.option(
    "--index",
    "place",
    metavar="INDEX",
    required=True,
    help="The index: a folder, or the URI of a Milvus server.",
)
model_option = click.option(
    "--model", metavar="NAME[@REV]|PATH", help="The model.  [default: the index's own]"
)
server_option = click.option(
    "--server", metavar="URL", help="Embed with a repzoo server instead of this machine."
)
filter_option = click.option(
    "--filter",
    "expression",
    metavar="EXPR",
    help="A Milvus expression, such as: metadata[\"folder\"] like 'cats/%'.",
)
images_option = click.option(
    "--images", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the images."
)


@click.group()
def index() -> None:
    """Index images and search them.

    An index is a local folder (milvus-lite) or on a Milvus server, http://HOST:19530, with the
    token in REPZOO_MILVUS_TOKEN. Only one command at a time can use a folder; others wait for up
    to a minute.
    """


@index.command("build")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME[@REV]|PATH", required=True, help="The model.")
@click.option("--out", "place", metavar="INDEX", required=True, help="Folder or Milvus URI.")
@hub_option
@server_option
@click.option(
    "--robust",
    is_flag=True,
    help="Index content posteriors, which undo blur, noise and so on; for a new index.",
)
@click.option("--keep", is_flag=True, help="Keep images that are no longer in DIR.")
@click.option("--checksums", is_flag=True, help="Compare contents, not size and time.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--scatter",
    type=click.FloatRange(0, min_open=True),
    default=0.15,
    show_default=True,
    help="s² of the metric content; for a new index.",
)
@skipping_options
@reporting
@_retrieval
def index_build(
    folder: Path,
    model: str,
    place: str,
    hub_spec: str | None,
    server: str | None,
    robust: bool,
    keep: bool,
    checksums: bool,
    batch_size: int,
    scatter: float,
    max_skipped: float,
) -> Report:
    """Embed a folder of images, at any depth, into an index.

    Run it again to resume it, even after kill -9, or to bring the index up to date: it embeds new
    and changed images, and drops those that no longer exist. Files that cannot be read or decoded
    are counted and the first ones listed; --json lists all, as bad, or as unread if the index keeps
    what it has of them. The exit status is then 3, or 1 if they are more than --max-skipped; the
    other images are in the index even then.
    """
    from repzoo.bulk.skipping import bad_files, left_out, listed
    from repzoo_client.retrieval import IndexNotFound, PosteriorIndex
    from tqdm import tqdm

    from repzoo_index.embedding import open_model
    from repzoo_index.folder import index_folder, require_images

    def open_or_create() -> PosteriorIndex:
        try:
            found = PosteriorIndex.open(place, token=_token())
        except IndexNotFound:
            require_images(folder)
            return PosteriorIndex.create(
                place,
                model=name,
                revision=revision,
                dim=dim,
                metric=metric,
                posterior="content" if robust else "encoder",
                scatter=scatter,
                token=_token(),
            )
        try:
            if robust != (found.info.posterior == "content"):
                raise InvalidInput(
                    f"{place} holds the encoder's posteriors: choose another --out, or leave out "
                    "--robust"
                    if robust
                    else f"{place} holds content posteriors: choose another --out, or add --robust"
                )
            found.require(model=name, revision=revision)
        except BaseException:
            found.close()
            raise
        return found

    with open_model(model, hub_spec, server, robust=robust) as (
        embed,
        name,
        revision,
        dim,
        metric,
    ):
        opened = _when_free(place, open_or_create)
        # disable=None: only on a terminal.
        with opened, tqdm(unit=" images", leave=False, disable=None) as bar:
            source = IndexSource(images=folder.resolve(), complete=False)

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            report = index_folder(
                opened,
                folder,
                embed,
                keep=keep,
                checksums=checksums,
                batch_size=batch_size,
                started=lambda: source.write(place),
                progress=show,
            )
            source.model_copy(update={"complete": True}).write(place)
            count = opened.count()
    bad, unread = (
        [f"{path}: {reason}" for path, reason in each.items()]
        for each in (report.bad, report.unread)
    )
    problems = [*bad, *unread]
    images = report.added + report.changed + report.unchanged + len(problems)
    if message := bad_files(len(problems), images, max_skipped, problems):
        raise InvalidInput(message)
    text = (
        f"{place}: {count:,} images of {name} {revision[:12]} ({report.added:,} added, "
        f"{report.changed:,} changed, {report.unchanged:,} unchanged, "
        f"{len(report.dropped):,} dropped)"
    )
    if report.ignored:
        text += f"\nfiles skipped because they are not images: {report.ignored:,}"
    rest = "--json lists all"
    if bad:
        text += "\n" + left_out(len(bad), images, bad, rest)
    if unread:
        found = "files and folders that cannot be opened; the index keeps their images as they were"
        text += "\n" + listed(found, unread, len(unread), rest)
    data = {"index": place, "count": count, "model": name, "revision": revision, **vars(report)}
    return Report(data, text, SOME_FAILED if problems else 0)


@index.command("search")
@click.argument("image", metavar="IMAGE", type=click.Path(path_type=Path))
@index_option
@click.option(
    "-k", type=click.IntRange(1, 800), default=10, show_default=True, help="Number of hits."
)
@click.option(
    "--metric",
    type=click.Choice(_METRICS),
    default="mean",
    show_default=True,
    help="mean is the index's own distance, euclidean (squared) or cosine (1 - cos); either name "
    "works too.",
)
@click.option(
    "--max-uncertainty", type=click.FloatRange(0, 1), help="Skip images that are more uncertain."
)
@click.option(
    "--abstain", type=click.FloatRange(0, 1), help="Return no hits if the query is more uncertain."
)
@click.option(
    "--where",
    metavar="KEY=VALUE",
    multiple=True,
    help="Only images with this metadata: folder=cats, size=266.",
)
@filter_option
@click.option(
    "--out", metavar="PNG", type=click.Path(path_type=Path), help="Write a contact sheet."
)
@images_option
@model_option
@hub_option
@server_option
@reporting
@_retrieval
def index_search(
    image: Path,
    place: str,
    k: int,
    metric: Metric | Distance,
    max_uncertainty: float | None,
    abstain: float | None,
    where: tuple[str, ...],
    expression: str | None,
    out: Path | None,
    images: Path | None,
    model: str | None,
    hub_spec: str | None,
    server: str | None,
) -> Report:
    """Find the images in an index that are nearest to an image."""
    from repzoo_index.answers import answer_text, write_sheet
    from repzoo_index.embedding import open_model

    with _open(place) as opened:
        info = opened.info
        wanted = model or (info.model if server else f"{info.model}@sha256:{info.revision}")
        opened.require(metric=metric)
        with ExitStack() as closing:
            robust = info.posterior == "content"
            try:
                used = closing.enter_context(open_model(wanted, hub_spec, server, robust=robust))
            except ModelNotFound as error:
                if model is not None:
                    raise
                raise ModelNotFound(
                    f"{error}; {place} was built with it. If it is gone, build another index: "
                    f"{info.build_command()}"
                ) from error
            opened.require(model=used.name, revision=used.revision)
            found = used.embed([image.read_bytes()])
        if found.bad:
            raise InvalidInput(f"{image}: {found.bad[0]}")
        if abstain is not None and found.uncertainty is None:
            raise InvalidInput(f"--abstain: {info.model} has no calibrated uncertainty")
        (answer,) = opened.search(
            found.mean,
            found.variance,
            found.uncertainty,
            k,
            metric=metric,
            filter=_filter(where, expression),
            max_uncertainty=max_uncertainty,
            abstain=abstain,
        )
        is_empty = not (answer.hits or answer.abstained) and opened.count() == 0
    distance = info.distance if metric == "mean" else metric
    shown = "squared Euclidean" if distance == "euclidean" else distance
    text = answer_text(image, answer, shown)
    if is_empty:
        text += f": {place} is empty"
    if out is not None:
        folder = images or image_folder(place)
        _warn_of(write_sheet(out, image, answer, shown, folder, info.model))
        text += f"\ncontact sheet: {out}"
    hits = [vars(hit) for hit in answer.hits]
    facts = {"uncertainty": answer.uncertainty, "probability": answer.probability}
    return Report({**facts, "abstained": answer.abstained, "metric": metric, "hits": hits}, text)


@index.command("outliers")
@index_option
@click.option(
    "-k", type=click.IntRange(1, 800), default=50, show_default=True, help="Number of images."
)
@filter_option
@click.option(
    "--out", metavar="PNG", type=click.Path(path_type=Path), help="Write a contact sheet of them."
)
@click.option(
    "--csv",
    "table",
    metavar="CSV",
    type=click.Path(path_type=Path),
    help="Write the uncertainties of all images, the most uncertain first.",
)
@images_option
@reporting
@_retrieval
def index_outliers(
    place: str,
    k: int,
    expression: str | None,
    out: Path | None,
    table: Path | None,
    images: Path | None,
) -> Report:
    """Show the images in an index that the model is least sure of.

    These are often images of something else than the others, or blurred, cut off or mislabelled
    ones. The uncertainty is the model's own, calibrated on the images that it was fitted to.
    """
    from repzoo_index.answers import (
        outliers_table,
        write_outliers_sheet,
        write_outliers_table,
    )

    with _open(place) as opened:
        model = opened.info.model
        found = [
            (name, float(value))
            for page in opened.documents(expression)
            for name, value in zip(page.ids, page.uncertainty, strict=True)
        ]
    known = [pair for pair in found if not math.isnan(pair[1])]
    if found and not known:
        raise InvalidInput(f"{model} has no calibrated uncertainty: see zoo calibrate")
    known.sort(key=lambda pair: (-pair[1], pair[0]))
    shown = known[:k]
    lines = [outliers_table(shown) if shown else "nothing found"]
    if table is not None:
        write_outliers_table(table, known)
        lines.append(f"table: {table}")
    if out is not None:
        _warn_of(write_outliers_sheet(out, shown, images or image_folder(place), model))
        lines.append(f"contact sheet: {out}")
    outliers = [{"id": name, "uncertainty": value} for name, value in shown]
    return Report({"count": len(known), "outliers": outliers}, "\n".join(lines))


@index.command("info")
@index_option
@reporting
@_retrieval
def index_info(place: str) -> Report:
    """Show the description of an index."""
    with _open(place) as opened:
        facts = {**vars(opened.info), "count": opened.count()}
    return Report(facts, format_table([(key, str(value)) for key, value in facts.items()]))


@index.command("export")
@click.argument("file", metavar="NPZ", type=click.Path(path_type=Path))
@index_option
@filter_option
@reporting
@_retrieval
def index_export(file: Path, place: str, expression: str | None) -> Report:
    """Write IDs, posteriors, uncertainties and metadata to an .npz file."""
    with _open(place) as opened:
        count = opened.export(file, expression)
    return Report({"file": str(file), "count": count}, f"{file}: {count:,} documents")


@index.command("delete")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@index_option
@reporting
@_retrieval
def index_delete(ids: tuple[str, ...], place: str) -> Report:
    """Remove documents by ID. The next build adds them again if their images exist."""
    with _open(place) as opened:
        removed, count = opened.delete(ids), opened.count()
    text = f"{place}: {removed:,} removed, {count:,} left"
    return Report({"removed": removed, "count": count}, text)


def _warn_of(missing: list[Path]) -> None:
    for path in missing:
        click.echo(f"zoo: not on the contact sheet: {path} cannot be read", err=True)


@contextmanager
def _open(place: str) -> Iterator[PosteriorIndex]:
    from repzoo_client.retrieval import PosteriorIndex

    with _when_free(place, lambda: PosteriorIndex.open(place, token=_token())) as opened:
        if message := warning(place):
            click.echo(f"zoo: {message}", err=True)
        yield opened


def _when_free(place: str, open_index: Callable[[], PosteriorIndex]) -> PosteriorIndex:
    """Open an index; wait while another process has it open."""
    from repzoo_client.retrieval import IndexInUse

    start = time.monotonic()
    has_warned = False
    while True:
        try:
            return open_index()
        except IndexInUse:
            waited = time.monotonic() - start
            if waited > _PATIENCE:
                raise
            if waited > 1 and not has_warned:
                click.echo(f"zoo: waiting for another process that uses {place}", err=True)
                has_warned = True
            time.sleep(0.1)


def _token() -> str | None:
    return os.environ.get("REPZOO_MILVUS_TOKEN")


def _filter(where: tuple[str, ...], expression: str | None) -> str | None:
    """Combine both options into one expression, and quote the values of --where."""
    from repzoo_client.retrieval.filters import filter_expression

    parts = [filter_expression(expression)]
    for pair in where:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise click.UsageError(f"--where {pair}: expected KEY=VALUE")
        # The metadata may hold 266 as a number or as text.
        either = [filter_expression({key: value}) for value in (text, *_literal(text))]
        parts.append(f"({' or '.join(either)})")
    return " and ".join(filter(None, parts)) or None


def _literal(text: str) -> list[bool | float]:
    """Return the number or truth value that a text stands for; empty if it is neither."""
    try:
        value = json.loads(text)
    except ValueError:
        return []
    is_whole = isinstance(value, int) and -(2**63) <= value < 2**63
    return [value] if is_whole or (isinstance(value, float) and math.isfinite(value)) else []
