"""`zoo cache`, `zoo path` and `zoo rm`: manage the cache."""

from __future__ import annotations

import click

from repzoo.cache.cache import Cache
from repzoo.cache.upkeep import cached_revisions, prune, verify_all, waste
from repzoo.commands.arguments import reference_argument
from repzoo.errors import IntegrityError
from repzoo.packages.reference import Reference
from repzoo.progress import progress_bar
from repzoo.report import Report, format_bytes, format_table, reporting

__all__ = ["cache", "path", "rm"]


@click.command()
@reference_argument
@reporting
def rm(reference: Reference) -> Report:
    """Remove a package from the cache.

    Without @REV, all revisions of the package are removed.
    """
    removed = Cache().remove(reference)
    lines = "\n".join(f"{reference.name} {revision[:12]}: removed" for revision in removed)
    return Report({"name": reference.name, "removed": removed}, lines)


@click.command()
@reference_argument
@reporting
def path(reference: Reference) -> Report:
    """Print the path of a package in the cache."""
    package = Cache().find(reference)
    data = {"name": reference.name, "revision": package.revision, "path": str(package.path)}
    return Report(data, str(package.path))


@click.group()
def cache() -> None:
    """Manage the cache of packages."""


@cache.command("path")
@reporting
def cache_path() -> Report:
    """Print the path of the cache.

    It is $REPZOO_CACHE or, by default, repzoo in your cache folder.
    """
    where = str(Cache().path)
    return Report({"path": where}, where)


@cache.command("list")
@reporting
def cache_list() -> Report:
    """List the packages in the cache, with their sizes and last pulls."""
    cache = Cache()
    lines = cached_revisions(cache)
    data = [
        {**line._asdict(), "pulled": line.pulled.isoformat() if line.pulled is not None else None}
        for line in lines
    ]
    if not lines:
        return Report(data, f"There are no packages in {cache.path}.")
    rows = [
        (
            line.name,
            line.revision[:12],
            format_bytes(line.size),
            f"{line.pulled.astimezone():%Y-%m-%d %H:%M}" if line.pulled is not None else "-",
            "yes" if line.current else "no",
            line.hub or "-",
        )
        for line in lines
    ]
    table = format_table(rows, ("NAME", "REVISION", "SIZE", "PULLED", "CURRENT", "FROM"))
    total = format_bytes(sum(line.size for line in lines))
    rest = sum(line.size for line in waste(cache))
    more = f"; zoo cache prune frees {format_bytes(rest)}" if rest else ""
    return Report(data, f"{table}\n{total} in {cache.path}{more}")


@cache.command("verify")
@reporting
def cache_verify() -> Report:
    """Check every file of every package in the cache."""
    cache = Cache()
    lines = cached_revisions(cache)
    with progress_bar("verify", sum(line.size for line in lines)) as advance:
        faults = verify_all(cache, advance)
    if faults:
        bad = "; ".join(
            f"{name}@{revision[:12]}: {fault}" for (name, revision), fault in faults.items()
        )
        names = " ".join(sorted({name for name, _ in faults}))
        raise IntegrityError(f"{bad}; to replace the bad files, run: zoo pull {names}")
    data = [{"name": line.name, "revision": line.revision} for line in lines]
    size = format_bytes(sum(line.size for line in lines))
    return Report(data, f"{len(lines)} packages verified, {size}")


@cache.command("prune")
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@reporting
def cache_prune(dry_run: bool, yes: bool) -> Report:
    """Remove old revisions, leftovers and bad files.

    For each hub, the revision that was pulled last is kept. Leftovers come from interrupted pulls.
    """
    cache = Cache()
    doomed = waste(cache)
    size = format_bytes(sum(line.size for line in doomed))
    if not doomed:
        return Report({"removed": [], "size": 0}, "There is nothing to remove.")
    listing = format_table(
        (format_bytes(line.size), line.why, str(line.path.relative_to(cache.path)))
        for line in doomed
    )
    if not dry_run:
        if not yes:
            click.echo(listing, err=True)
            click.confirm(f"Remove these {size}?", abort=True, err=True)
        doomed = list(prune(cache))
    total = sum(line.size for line in doomed)
    data = {"removed": [str(line.path) for line in doomed], "size": total}
    done = "would be removed" if dry_run else "removed"
    return Report(data, f"{listing}\n{format_bytes(total)} {done}")
