"""`zoo embed`: embed the images of a source into a Parquet file, and a NumPy file."""

from __future__ import annotations

from typing import Any

import click

from repzoo.commands.arguments import hub_option, skipping_options
from repzoo.report import SOME_FAILED, Report, reporting

__all__ = ["embed"]


@click.command()
@click.argument("source")
@click.option("--model", metavar="NAME[@REV]|PATH", required=True, help="The model to use.")
@click.option(
    "--out",
    metavar="FILE.parquet|FILE.npy",
    required=True,
    help="Path or URL of the output file. With FILE.npy, FILE.parquet is written too.",
)
@hub_option
@click.option("--posterior", is_flag=True, help="Add the variance of the posterior.")
@click.option(
    "--robust",
    is_flag=True,
    help="Embed by the content mean, which undoes blur, noise and other degradations. The variance "
    "is then the content variance.",
)
@click.option("--normalize", is_flag=True, help="Scale each embedding to length 1.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    help="Where to run the model.  [default: cuda if it works, otherwise cpu]",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray runs on the cluster at $RAY_ADDRESS, or starts one on this machine.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Number of processes that decode or, with Ray, embed.  [default: one per core]",
)
@click.option(
    "--part-size",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Number of images after which progress is saved.",
)
@click.option("--overwrite", is_flag=True, help="Discard the output of another run.")
@skipping_options
@reporting
def embed(source: str, model: str, out: str, hub_spec: str | None, **options: Any) -> Report:
    """Embed many images into a Parquet file.

    SOURCE is an image, a folder (including its subfolders), a pattern such as 'photos/**/*.jpg', or
    one or more Parquet files with images, as in Hugging Face datasets. It may also be a URL of any
    of these, such as s3://..., with every protocol that fsspec supports.

    The columns are id, embedding, variance (with --posterior), uncertainty (if the model has one)
    and error. Images that cannot be decoded get an error instead of an embedding, and the exit
    status is 3. If they are more than --max-skipped, there is no output and the exit status is 1.
    The finished parts are kept, so the command can be repeated with a larger share at once.

    FILE.npy is a float32 array, held in memory once. Row i belongs to row i of FILE.parquet, which
    has the ids, and is NaN if the image has an error.

    If the run is interrupted, the same command resumes it, and the result has the same bytes. Until
    it is complete, the finished parts are in FILE.parquet.parts.
    """
    from repzoo.bulk.npy import parquet_beside, write_npy
    from repzoo.bulk.run import embed_all

    as_npy = out.endswith(".npy")
    summary = embed_all(
        source, parquet_beside(out) if as_npy else out, model, hub=hub_spec, **options
    )
    if as_npy:
        write_npy(out)
    job = summary.job
    rate = summary.done_now / summary.seconds
    data = {
        "out": summary.out,
        "npy": out if as_npy else None,
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
        earlier = job.images - summary.done_now
        how += f"; {earlier:,} were done earlier" if earlier else ""
    else:
        how = "already done"
    lines = [f"{summary.out}: {job.images:,} images by {job.model} {job.revision[:12]}, {how}"]
    if as_npy:
        lines.append(f"{out}: the same embeddings as an array")
    if summary.skipped:
        lines.append(f"files skipped because they are not images: {summary.skipped:,}")
    if summary.failed:
        lines.append(summary.unread())
    return Report(data, "\n".join(lines), SOME_FAILED if summary.failed else 0)
