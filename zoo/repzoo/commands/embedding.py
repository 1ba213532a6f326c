"""`zoo embed`: all images of a source into one parquet file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from repzoo.commands.arguments import hub_option
from repzoo.errors import MissingExtra
from repzoo.report import Report, reporting

__all__ = ["embed"]

#: The output is whole, but some images have an error in place of an embedding.
_SOME_FAILED = 3


def _exiting(command: Callable[..., None]) -> Callable[..., None]:
    """Once it has been said what was done, exit with 3 if some images failed."""

    @functools.wraps(command)
    def run(**parameters: Any) -> None:
        command(**parameters)
        context = click.get_current_context()
        if context.meta.get("repzoo.failed"):
            context.exit(_SOME_FAILED)

    return run


@click.command()
@click.argument("source")
@click.option("--model", metavar="NAME[@REV]|PATH", required=True, help="What embeds.")
@click.option("--out", metavar="FILE.parquet", required=True, help="Path or URL of the output.")
@hub_option
@click.option("--posterior", is_flag=True, help="Add the posterior's variance.")
@click.option("--normalize", is_flag=True, help="Divide each embedding by its length.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    help="Where the model runs.  [default: a GPU that works, else the CPU]",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: on the cluster of RAY_ADDRESS, else one that is started on this machine.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes that decode; with Ray, that embed.  [default: one a core]",
)
@click.option(
    "--part-size",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Images after which what is done is kept, whatever happens.",
)
@click.option("--overwrite", is_flag=True, help="Drop what is there of another run.")
@_exiting
@reporting
def embed(source: str, model: str, out: str, hub_spec: str | None, **options: Any) -> Report:
    """Embed many images into one parquet file.

    SOURCE is a folder (with all below it), a pattern such as 'photos/**/*.jpg', an image, or a
    parquet file or folder of them as those of Hugging Face datasets; or a URL of these: s3://...,
    and whatever else fsspec knows.

    Columns: id, embedding, variance (--posterior), uncertainty (where the model has it), and error,
    for images that are none; these do not stop the run, but end it with exit status 3.

    Killed in any way, the same command goes on where it was, and ends with the same bytes. What it
    has done lies in FILE.parquet.parts until then.
    """
    try:
        from repzoo.bulk.run import embed_all
    except ImportError as error:
        cause = error.__cause__ if isinstance(error, MissingExtra) else error
        missing = cause if isinstance(cause, ImportError) else None
        raise MissingExtra("zoo embed", "batch", missing) from error
    summary = embed_all(source, out, model, hub=hub_spec, **options)
    job = summary.job
    click.get_current_context().meta["repzoo.failed"] = summary.failed
    rate = summary.done_now / summary.seconds
    data = {
        "out": summary.out,
        "model": job.model,
        "revision": job.revision,
        "source": job.source,
        "images": job.images,
        "failed": summary.failed,
        "skipped_files": summary.skipped,
        "embedded_now": summary.done_now,
        "seconds": round(summary.seconds, 3),
        "examples": [{"id": name, "error": error} for name, error in summary.examples],
    }
    if summary.done_now:
        how = f"{summary.seconds:.1f} s, {rate:,.0f} images/s"
        there = job.images - summary.done_now
        how += f"; {there:,} of them were there" if there else ""
    else:
        how = "already there"
    lines = [f"{summary.out}: {job.images:,} images by {job.model} {job.revision[:12]}, {how}"]
    if summary.skipped:
        lines.append(f"{summary.skipped:,} other files passed over")
    if summary.failed:
        lines.append(f"{summary.failed:,} images have an error in place of an embedding:")
        lines += [f"  {name}: {error}" for name, error in summary.examples]
        if summary.failed > len(summary.examples):
            lines.append("  ...")
    return Report(data, "\n".join(lines))
