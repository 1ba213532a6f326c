"""`zoo pull`: a package of a hub into the cache."""

from __future__ import annotations

from pathlib import Path

import click

from repzoo.cache import Cache, copy_out
from repzoo.commands.arguments import hub_option, reference_argument
from repzoo.reference import Reference
from repzoo.report import Report, format_bytes, reporting

__all__ = ["pull"]


@click.command()
@reference_argument
@hub_option
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Also write a copy to DIR/NAME.",
)
@reporting
def pull(reference: Reference, hub_spec: str | None, out: Path | None) -> Report:
    """Bring a package into the cache, verified.

    What is damaged there is replaced. Nothing becomes visible before all of it is right.
    """
    pulled = Cache().pull(reference, hub_spec)
    package = pulled.package if out is None else copy_out(pulled.package, out)
    data = {
        "name": reference.name,
        "revision": package.revision,
        "path": str(package.path),
        "hub": pulled.hub,
        "size": package.size,
        "fetched": list(pulled.fetched),
        "repaired": list(pulled.repaired),
    }
    done = "pulled" if pulled.fetched else "already in the cache"
    if pulled.repaired:
        done = f"repaired ({', '.join(pulled.repaired)})"
    text = (
        f"{reference.name} {package.revision[:12]}, {format_bytes(package.size)}: {done}\n"
        f"{package.path}"
    )
    return Report(data, text)
