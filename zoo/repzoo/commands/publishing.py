"""`zoo publish`: a package to a hub."""

from __future__ import annotations

from pathlib import Path

import click

from repzoo.errors import HubError
from repzoo.hubs import open_hub
from repzoo.hubs.store import Store
from repzoo.package import Package
from repzoo.report import Report, reporting

__all__ = ["publish"]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--hub", "hub_spec", metavar="HUB", required=True, help="A store.")
@click.option("--files-only", is_flag=True, help="Check the files, do not run the model first.")
@reporting
def publish(folder: Path, hub_spec: str, files_only: bool) -> Report:
    """Publish a package to a hub.

    It becomes the newest revision of its name; older ones stay.
    """
    package = Package.open(folder)
    hub = open_hub(hub_spec)
    if not isinstance(hub, Store):
        raise HubError(f"{hub_spec} is read-only; zoo hub init makes a store to publish to")
    package.verify()
    if not files_only:
        from repzoo.encoder import Encoder
        from repzoo.golden import check_golden

        check_golden(Encoder(package.path, package.config, revision=package.revision))
    published = hub.publish(package)
    data = {**published._asdict(), "hub": hub.spec}
    done = "published" if published.new else "was there already"
    text = f"{published.name} {published.revision[:12]}: {done} in {hub.spec}"
    return Report(data, text)
