"""`zoo map`: draw a map of a source of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from repzoo.commands.arguments import overview_options
from repzoo.report import SOME_FAILED, Report, reporting

__all__ = ["map_"]


@click.command("map")
@overview_options(
    "The folder for map.html. It keeps the embeddings; zoo duplicates uses the same ones."
)
@click.option(
    "--most",
    type=click.IntRange(1, 10_000),
    default=5000,
    show_default=True,
    help="The number of images on the map, spread evenly over the source if it has more.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@reporting
def map_(source: str, model: str, out: Path, hub_spec: str | None, **options: Any) -> Report:
    """Draw a map of many images, as one HTML file.

    Similar images are close to each other. The page shows small pictures, colours by folder and by
    uncertainty, and finds paths. It needs no network, and holds the pictures: share it only with
    those who may see them.

    SOURCE is the same as for zoo embed. The map is a t-SNE of the embeddings: neighbours mean
    something, distances between clusters do not.
    """
    from repzoo.overview.map import draw_map

    found = draw_map(source, out, model, hub=hub_spec, **options)
    data = {
        "page": str(found.page),
        "shown": found.shown,
        "images": found.images,
        "failed": found.failed,
    }
    lines = [f"{found.page}: {found.shown:,} of {found.images:,} images"]
    if found.failed:
        lines.append(found.unread)
    return Report(data, "\n".join(lines), SOME_FAILED if found.failed else 0)
