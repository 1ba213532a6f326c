"""Option types and data loading that several commands share."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from repzoo.bulk.skipping import LISTED
from repzoo.report import SOME_FAILED

if TYPE_CHECKING:
    from repzoo.packages.config import InputSpec

    from repzoo_training.data import ImageDataset
    from repzoo_training.evaluation.report import Group
    from repzoo_training.recipes.recipe import Recipe

__all__ = [
    "Duration",
    "chosen_measures",
    "exit_if_skipped",
    "load_outside",
    "load_train_and_test",
    "next_steps",
    "split_option",
    "warn_of_shared_images",
]

split_option = click.option(
    "--split",
    metavar="SHARE[:SEED]",
    help="Hold out this share of the images, such as 0.1, as the test split. Which ones depends on "
    "their contents and the seed.",
)


class Duration(click.ParamType[float]):
    """A duration such as ``90s``, ``2m``, ``1h30m`` or plain seconds, converted to seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", value.strip())
        seconds = 0.0
        if match:
            hours, minutes, rest = (float(group or 0) for group in match.groups())
            seconds = 3600 * hours + 60 * minutes + rest
        if not seconds > 0:
            self.fail(f"{value!r} is not a duration: write it as 90s, 2m or 1h30m", param, ctx)
        return seconds


def next_steps(*commands: tuple[object, ...]) -> None:
    """Print commands that would work now, ready to be copied."""
    click.echo("next: " + "\n      ".join(shlex.join(map(str, words)) for words in commands))


def warn_of_shared_images(source: str, recipe: Recipe) -> None:
    """Say that packages will contain some of the user's own images, if they will.

    Args:
        source: The images, from `repzoo_training.data.absolute`: the name of a public data set, or
            a path.
        recipe: The recipe of the run.
    """
    from repzoo_training.data.held_out import separate

    path = separate(source)[0]
    if recipe.share_images and Path(path).is_absolute():
        click.echo(
            f"zoo: share_images is true in this recipe, so packages contain some images of {path}: "
            "in golden.npz, and in figures on the card. If they are private, train with --set "
            "share_images=false",
            err=True,
        )


def chosen_measures(text: str | None) -> tuple[Group, ...] | None:
    """Return the measures in a comma-separated list, or None for None."""
    from repzoo_training.evaluation.protocol import check_groups

    return None if text is None else check_groups(text.split(","))


def load_train_and_test(
    source: str, size: InputSpec, max_skipped: float
) -> tuple[ImageDataset, ImageDataset | None]:
    """Load both splits of a source; warn and return None for a test split that does not exist."""
    from repzoo_training.data import load, load_splits
    from repzoo_training.errors import DataError

    try:
        return load_splits(source, size=size, max_skipped=max_skipped)
    except DataError as error:
        train_set = load(source, "train", size=size, max_skipped=max_skipped)
        click.echo(f"the card has no measurements: {error}", err=True)
        return train_set, None


def load_outside(
    sources: tuple[str, ...], size: InputSpec, max_skipped: float
) -> dict[str, ImageDataset]:
    """Load the test images of out-of-distribution sources, keyed by data set name."""
    from repzoo_training.data import load

    sets = [load(source, "test", size=size, max_skipped=max_skipped) for source in sources]
    return {dataset.name: dataset for dataset in sets}


def exit_if_skipped(*datasets: ImageDataset | None) -> None:
    """End the command with status 3 if images of the data sets were skipped."""
    skipped = [len(dataset.skipped) for dataset in datasets if dataset is not None]
    if max(skipped) > LISTED:
        click.echo("zoo: to list all images that cannot be read, use zoo embed", err=True)
    if any(skipped):
        click.get_current_context().exit(SOME_FAILED)
