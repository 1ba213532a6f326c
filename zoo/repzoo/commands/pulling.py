"""`zoo pull`: download packages from a hub into the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from repzoo.cache.cache import Cache, Plan, Pulled
from repzoo.commands.arguments import hub_option, references_argument
from repzoo.errors import HubError, ModelNotFound, Offline, RepzooError
from repzoo.packages.copies import copy_out
from repzoo.packages.reference import Reference
from repzoo.packages.signatures import verify_signature
from repzoo.report import Report, format_bytes, reporting

__all__ = ["pull"]

_log = logging.getLogger("repzoo")


@click.command()
@references_argument
@hub_option
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Also copy the package to DIR/NAME.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be downloaded.")
@click.option("--offline", is_flag=True, help="Do not contact a hub; verify the cached package.")
@click.option(
    "--accept-change",
    is_flag=True,
    help="Accept a tag or commit that has changed since the first pull.",
)
@click.option(
    "--key",
    metavar="PUB",
    type=click.Path(path_type=Path),
    help="Accept only packages signed with this public key (PEM, elliptic curve).",
)
@reporting
def pull(
    references: tuple[Reference, ...],
    hub_spec: str | None,
    out: Path | None,
    dry_run: bool,
    offline: bool,
    accept_change: bool,
    key: Path | None,
) -> Report:
    """Download packages into the cache and verify them.

    Damaged files in the cache are replaced. A package becomes visible only when it is complete and
    verified. An interrupted pull is resumed.

    With REPZOO_OFFLINE=1 or HF_HUB_OFFLINE=1, only hubs that are folders are read. Other packages
    come from the cache.
    """
    if dry_run and (offline or out is not None):
        raise click.UsageError("--dry-run cannot be combined with --offline or --out")
    cache = Cache()

    def one(reference: Reference) -> Report:
        if dry_run:
            plan = cache.plan(reference, hub_spec, accept_change=accept_change, key=key)
            return _planned(plan)
        if offline:
            return _done(reference, _cached(cache, reference, hub_spec, key), out)
        try:
            pulled = cache.pull(reference, hub_spec, accept_change=accept_change, key=key)
        except Offline as error:
            try:
                pulled = _cached(cache, reference, hub_spec, key)
            except ModelNotFound as missing:
                raise Offline(f"{missing}; {error}") from None
        return _done(reference, pulled, out)

    return _each(references, one)


def _cached(cache: Cache, reference: Reference, hub_spec: str | None, key: Path | None) -> Pulled:
    package = cache.find(reference, hub_spec)
    package.verify()
    if key is not None:
        verify_signature(package, key)
    return Pulled(package, None)


def _each(references: tuple[Reference, ...], one: Callable[[Reference], Report]) -> Report:
    """Pull all, even if some fail. Several references give a list instead of an object."""
    if len(references) == 1:
        return one(references[0])
    reports, failed = [], []
    for reference in references:
        try:
            reports.append(one(reference))
        except (RepzooError, OSError) as error:
            _log.error("%s: %s", reference, error)
            failed.append(str(reference))
    if failed:
        done = ", ".join(report.data["name"] for report in reports) or "none"
        raise HubError(f"failed: {', '.join(failed)}; pulled: {done}")
    return Report([report.data for report in reports], "\n".join(each.text for each in reports))


def _done(reference: Reference, pulled: Pulled, out: Path | None) -> Report:
    package = pulled.package if out is None else copy_out(pulled.package, out)
    data: dict[str, Any] = {
        "name": reference.name,
        "revision": package.revision,
        "path": str(package.path),
        "hub": pulled.hub,
        "size": package.size,
        "fetched": list(pulled.fetched),
        "repaired": list(pulled.repaired),
        "skipped": list(pulled.skipped),
    }
    done = "pulled" if pulled.fetched else "already in the cache"
    if pulled.repaired:
        done = f"repaired ({', '.join(pulled.repaired)})"
    if pulled.skipped:
        done += f", without {', '.join(pulled.skipped)}, which the hub lacks"
    text = (
        f"{reference.name} {package.revision[:12]}, {format_bytes(package.size)}: {done}\n"
        f"{package.path}"
    )
    return Report(data, text)


def _planned(plan: Plan) -> Report:
    size, cached = sum(plan.files.values()), sum(plan.there.values())
    data = {
        "name": plan.name,
        "revision": plan.revision,
        "hub": plan.hub,
        "files": plan.files,
        "there": plan.there,
        "size": size,
        "to_fetch": size - cached,
    }
    lines = [
        f"{plan.name} {plan.revision[:12]} from {plan.hub}: {format_bytes(size - cached)} of "
        f"{format_bytes(size)} to download"
    ]
    for file, whole in plan.files.items():
        rest = whole - plan.there.get(file, 0)
        if rest:
            part = f" of {format_bytes(whole)}" if rest < whole else ""
            lines.append(f"  {file}  {format_bytes(rest)}{part}")
    return Report(data, "\n".join(lines))
