"""`zoo duplicates`: find near-duplicates in a source of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from repzoo.commands.arguments import overview_options
from repzoo.report import SOME_FAILED, Report, reporting

__all__ = ["duplicates"]


@click.command()
@overview_options(
    "The folder for the results. It keeps the embeddings, so that another --distance takes seconds."
)
@click.option(
    "--distance",
    type=click.FloatRange(0),
    help="The largest distance between near-duplicates.  [default: measured with altered copies of "
    "some of the images]",
)
@reporting
def duplicates(source: str, model: str, out: Path, hub_spec: str | None, **options: Any) -> Report:
    """Find near-duplicates in a source of images.

    They are the same photo in another size, crop, quality or brightness. SOURCE is the same as for
    zoo embed. DIR/duplicates.csv lists the groups, with the distance of
    each image to the first of its group, the closest groups first. DIR/duplicates.png shows 50 of
    them.

    Images are near-duplicates if their embeddings are as close as those of an image and an altered
    copy of it. What an encoder does not tell apart is close as well, so look before you delete.
    Images that cannot be read are skipped, and the exit status is 3.
    """
    from repzoo.overview.duplicates import SHARE, find_duplicates

    given = options["distance"] is not None
    found = find_duplicates(source, out, model, hub=hub_spec, **options)
    data = {
        "images": found.images,
        "failed": found.failed,
        "distance": found.distance,
        "groups": len(found.groups),
        "spare": found.spare,
        "table": str(found.table),
        "sheet": None if found.sheet is None else str(found.sheet),
    }
    how = "" if given else f", within which {SHARE:.0%} of altered copies are"
    lines = [
        f"{found.images:,} images, {len(found.groups):,} groups of near-duplicates: "
        f"{found.spare:,} images could go",
        f"largest distance: {found.distance:.4g}{how}",
        f"table: {found.table}",
    ]
    if found.sheet is not None:
        lines.append(f"contact sheet: {found.sheet}")
    if found.failed:
        lines.append(found.unread)
    return Report(data, "\n".join(lines), SOME_FAILED if found.failed else 0)
