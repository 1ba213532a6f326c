"""`zoo hub`: make and keep hubs."""

from __future__ import annotations

from pathlib import Path

import click

from repzoo.hubs.store import Store
from repzoo.report import Report, reporting

__all__ = ["hub"]


@click.group()
def hub() -> None:
    """Make and keep hubs."""


@hub.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@reporting
def hub_init(folder: Path) -> Report:
    """Make a store of a new or empty folder."""
    store = Store.create(folder)
    return Report({"hub": store.spec}, f"{store.spec} is a store: zoo publish DIR --hub {folder}")
