"""`zoo index`: a folder of images as an index that can be searched.

The one place of repzoo that reaches to the client, for `repzoo_client.retrieval`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec

import click
from repzoo.commands.arguments import hub_option
from repzoo.errors import InvalidInput, MissingExtra
from repzoo.report import Report, format_table, reporting

if TYPE_CHECKING:
    from repzoo_client.retrieval import PosteriorIndex

__all__ = ["index"]

P = ParamSpec("P")

_METRICS = ("mean", "trusted", "w2", "csd", "content")


def _retrieval(command: Callable[P, Report]) -> Callable[P, Report]:
    """Errors of retrieval become repzoo's own, which the command line knows how to show."""

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
    help="A folder, or the URI of a Milvus server.",
)
model_option = click.option(
    "--model", metavar="NAME[@REV]|PATH", help="Default: the model that the index was built with."
)
server_option = click.option(
    "--server", metavar="URL", help="Embed by a repzoo server, not on this machine."
)
filter_option = click.option(
    "--filter",
    "expression",
    metavar="EXPR",
    help="Milvus' own: metadata[\"folder\"] like 'cats/%'.",
)


@click.group()
def index() -> None:
    """Index folders of images, and search them.

    An index is a folder (milvus-lite), or lies on a Milvus server: http://HOST:19530, with the
    token of REPZOO_MILVUS_TOKEN.
    """


@index.command("build")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME[@REV]|PATH", required=True, help="What embeds the images.")
@click.option("--out", "place", metavar="INDEX", required=True, help="A folder, or a Milvus URI.")
@hub_option
@server_option
@click.option("--keep", is_flag=True, help="Leave in what is no longer in DIR.")
@click.option("--checksums", is_flag=True, help="Read every file; do not trust size and time.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--scatter",
    type=click.FloatRange(0, min_open=True),
    default=0.15,
    show_default=True,
    help="s² of the metric content, for a new index.",
)
@reporting
@_retrieval
def index_build(
    folder: Path,
    model: str,
    place: str,
    hub_spec: str | None,
    server: str | None,
    keep: bool,
    checksums: bool,
    batch_size: int,
    scatter: float,
) -> Report:
    """Embed a folder of images, at any depth, into an index.

    Given again, it goes on where it was, even after kill -9; embeds again what has changed, and
    drops what is gone. Files that are no images, or cannot be read, are reported, and do not stop
    it.
    """
    from repzoo_client.retrieval import IndexNotFound, PosteriorIndex
    from repzoo_client.retrieval.folder import index_folder, require_images
    from tqdm import tqdm

    from repzoo_index.answers import remember_images
    from repzoo_index.embedding import embedding

    with embedding(model, hub_spec, server) as (embed, name, revision, dim, near):
        token = os.environ.get("REPZOO_MILVUS_TOKEN")
        try:
            opened = PosteriorIndex.open(place, model=name, revision=revision, token=token)
        except IndexNotFound:
            require_images(folder)
            opened = PosteriorIndex.create(
                place,
                model=name,
                revision=revision,
                dim=dim,
                metric=near,
                scatter=scatter,
                token=token,
            )
        # disable=None: only on a terminal.
        with opened, tqdm(unit=" images", leave=False, disable=None) as bar:
            remember_images(place, folder)

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
                progress=show,
            )
            count = opened.count()
    for path, reason in report.bad.items():
        click.echo(f"zoo: not indexed: {path}: {reason}", err=True)
    for path, reason in report.unread.items():
        click.echo(f"zoo: left as it was: {path}: {reason}", err=True)
    text = (
        f"{place}: {count:,} images of {name} {revision[:12]} ({report.added:,} added, "
        f"{report.changed:,} changed, {report.unchanged:,} as they were, "
        f"{len(report.dropped):,} dropped, {len(report.bad):,} bad, "
        f"{len(report.unread):,} unread)"
    )
    return Report(
        {"index": place, "count": count, "model": name, "revision": revision, **vars(report)}, text
    )


@index.command("search")
@click.argument("image", metavar="IMAGE", type=click.Path(path_type=Path))
@index_option
@click.option("-k", type=click.IntRange(1, 800), default=10, show_default=True, help="Hits.")
@click.option("--metric", type=click.Choice(_METRICS), default="mean", show_default=True)
@click.option("--max-uncertainty", type=click.FloatRange(0, 1), help="Of documents.")
@click.option("--abstain", type=click.FloatRange(0, 1), help="No hits for a query more uncertain.")
@click.option("--where", metavar="KEY=VALUE", multiple=True, help="Of metadata: folder=cats.")
@filter_option
@click.option(
    "--out", metavar="PNG", type=click.Path(path_type=Path), help="Write a contact sheet."
)
@click.option("--images", metavar="DIR", type=click.Path(path_type=Path), help="Where hits lie.")
@model_option
@hub_option
@server_option
@reporting
@_retrieval
def index_search(
    image: Path,
    place: str,
    k: int,
    metric: Literal["mean", "trusted", "w2", "csd", "content"],
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
    """Find the images of an index that are nearest to an image."""
    from repzoo_index.answers import answer_text, image_folder, write_sheet
    from repzoo_index.embedding import embedding

    with _open(place) as opened:
        info = opened.info
        wanted = model or (info.model if server else f"{info.model}@sha256:{info.revision}")
        with embedding(wanted, hub_spec, server) as (embed, name, revision, _, _):
            opened.require(model=name, revision=revision)
            found = embed([image.read_bytes()])
        if found.bad:
            raise InvalidInput(f"{image}: {found.bad[0]}")
        if abstain is not None and found.uncertainty is None:
            raise InvalidInput(f"{name} has no calibrated uncertainty to abstain by")
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
    text = answer_text(image, answer, metric)
    if out is not None:
        write_sheet(out, image, answer, metric, images or image_folder(place), info.model)
        text += f"\ncontact sheet: {out}"
    hits = [vars(hit) for hit in answer.hits]
    facts = {"uncertainty": answer.uncertainty, "probability": answer.probability}
    return Report({**facts, "abstained": answer.abstained, "metric": metric, "hits": hits}, text)


@index.command("info")
@index_option
@reporting
@_retrieval
def index_info(place: str) -> Report:
    """Show what an index holds."""
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
    """Write ids, posteriors, uncertainties and metadata to an .npz file."""
    with _open(place) as opened:
        count = opened.export(file, expression)
    return Report({"file": str(file), "count": count}, f"{file}: {count:,} documents")


@index.command("delete")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@index_option
@reporting
@_retrieval
def index_delete(ids: tuple[str, ...], place: str) -> Report:
    """Remove documents by their ids; a build puts them in again if their images are there."""
    with _open(place) as opened:
        removed, count = opened.delete(ids), opened.count()
    return Report(
        {"removed": removed, "count": count}, f"{place}: {removed:,} removed, {count:,} left"
    )


@contextmanager
def _open(place: str) -> Iterator[PosteriorIndex]:
    from repzoo_client.retrieval import PosteriorIndex

    with PosteriorIndex.open(place, token=os.environ.get("REPZOO_MILVUS_TOKEN")) as opened:
        yield opened


def _filter(where: tuple[str, ...], expression: str | None) -> str | None:
    """Both options as one expression; what is in --where is quoted."""
    from repzoo_client.retrieval.filters import filter_expression

    pairs = dict(pair.partition("=")[::2] for pair in where)
    if any("=" not in pair for pair in where):
        raise click.UsageError("--where takes KEY=VALUE")
    parts = [part for part in (filter_expression(pairs), filter_expression(expression)) if part]
    return " and ".join(parts) or None
