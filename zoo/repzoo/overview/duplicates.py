"""Find near-duplicates in a source of images."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repzoo.errors import InvalidInput
from repzoo.files import write_atomically
from repzoo.overview.altered import copy_distances
from repzoo.overview.embedded import Embedded
from repzoo.overview.groups import Group, close_pairs, grouped
from repzoo.overview.sheet import contact_sheet

__all__ = ["SHARE", "Duplicates", "find_duplicates"]

#: The share of altered copies that are within the default distance.
SHARE = 0.75


@dataclass(frozen=True)
class Duplicates:
    """The near-duplicates of a source.

    Attributes:
        images: The number of images.
        failed: The number of images that cannot be read.
        unread: Those images, for people.
        distance: The largest distance within a group.
        groups: The groups, the closest first.
        table: The CSV file with the columns group, id and distance.
        sheet: The contact sheet, or None without groups.
    """

    images: int
    failed: int
    unread: str
    distance: float
    groups: list[Group]
    table: Path
    sheet: Path | None

    @property
    def spare(self) -> int:
        """The number of images that remain if one of each group is kept."""
        return sum(len(group.members) - 1 for group in self.groups)


def find_duplicates(
    source: str,
    out: str | Path,
    model: str,
    *,
    hub: str | None = None,
    distance: float | None = None,
    overwrite: bool = False,
    max_skipped: float = 1.0,
) -> Duplicates:
    """Write ``duplicates.csv`` and ``duplicates.png`` of a source into the folder ``out``.

    Images are near-duplicates if their embeddings are as close as those of an image and an altered
    copy. The default distance is measured with the source's own images: up to 200 of them are
    compressed, reduced, trimmed and brightened, and three quarters of these copies are closer than
    that to their image.

    Args:
        source: Like that of `repzoo.bulk.run.embed_all`.
        out: The folder. It keeps the embeddings, so that another distance takes seconds.
        model: The argument of `repzoo.load`.
        hub: The hub of a model that is given by name.
        distance: The largest Euclidean distance. If the model compares by cosine, embeddings have
            length 1.
        overwrite: Discard the embeddings of other images or of another model.
        max_skipped: The share of images that may be bad.

    Raises:
        Conflict: If ``out`` holds the embeddings of other images or of another model.
        InvalidInput: If no image can be read, too many cannot, or too many are close.
        RepzooError, OSError: If the model cannot be loaded, or something cannot be read.
    """
    if distance is not None and not 0 <= distance < math.inf:
        raise InvalidInput(f"the distance is {distance}; expected a number from 0 on")
    out = Path(out)
    embedded = Embedded(source, out, model, hub=hub, overwrite=overwrite, max_skipped=max_skipped)
    if distance is None:
        copies = copy_distances(embedded)
        distance = float(np.quantile(copies, SHARE)) if len(copies) else 0.0
    groups = grouped(len(embedded), close_pairs(embedded.vectors, distance))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "id", "distance"])
    for number, group in enumerate(groups, start=1):
        for member, off in zip(group.members, group.distances, strict=True):
            writer.writerow([number, embedded.ids[member], f"{off:.6g}"])
    table, sheet = out / "duplicates.csv", out / "duplicates.png"
    write_atomically(table, text.getvalue().encode())
    sheet.unlink(missing_ok=True)
    if groups:
        write_atomically(sheet, contact_sheet(embedded, groups))
    return Duplicates(
        images=len(embedded),
        failed=embedded.summary.failed,
        unread=embedded.summary.unread(),
        distance=distance,
        groups=groups,
        table=table,
        sheet=sheet if groups else None,
    )
