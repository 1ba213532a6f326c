"""`zoo path` and `zoo rm`: what is in the cache."""

from __future__ import annotations

import click

from repzoo.cache import Cache
from repzoo.commands.arguments import reference_argument
from repzoo.reference import Reference
from repzoo.report import Report, reporting

__all__ = ["path", "rm"]


@click.command()
@reference_argument
@reporting
def rm(reference: Reference) -> Report:
    """Remove a package from the cache.

    NAME means all its revisions.
    """
    removed = Cache().remove(reference)
    lines = "\n".join(f"{reference.name} {revision[:12]}: removed" for revision in removed)
    return Report({"name": reference.name, "removed": removed}, lines)


@click.command()
@reference_argument
@reporting
def path(reference: Reference) -> Report:
    """Print where a package lies in the cache."""
    package = Cache().find(reference)
    data = {"name": reference.name, "revision": package.revision, "path": str(package.path)}
    return Report(data, str(package.path))
