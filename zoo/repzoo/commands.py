"""The subcommands of ``zoo`` that deal with packages, hubs and the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from repzoo.cache import Cache, copy_out
from repzoo.catalogue import Card, Listing, card_of_package, card_on_hub, listings
from repzoo.config import ModelConfig
from repzoo.errors import HubError, InvalidInput, ModelNotFound, PackageError
from repzoo.hubs import open_hub
from repzoo.hubs.store import Store
from repzoo.package import Package
from repzoo.reference import Reference, is_path
from repzoo.report import Report, format_bytes, format_table, reporting

__all__ = ["hub", "info", "list_", "path", "publish", "pull", "rm", "verify"]

_hub_option = click.option(
    "--hub",
    "hub_spec",
    metavar="HUB",
    help="A folder of packages or a store. Default: $REPZOO_HUB, else the bundled packages.",
)


def _parse_reference(_ctx: click.Context, _param: click.Parameter, value: str) -> Reference:
    try:
        return Reference.parse(value)
    except InvalidInput as error:
        raise click.BadParameter(str(error)) from None


_reference = click.argument("reference", metavar="NAME[@REV]", callback=_parse_reference)
_name_or_path = click.argument("name_or_path", metavar="NAME[@REV]|PATH")


@click.command("list")
@_hub_option
@click.option("--cached", is_flag=True, help="What is in the cache; asks no hub.")
@reporting
def list_(hub_spec: str | None, cached: bool) -> Report:
    """List the packages of a hub."""
    cache = Cache()
    if cached:
        where = f"the cache {cache.path}"
        lines = _cached_listings(cache)
    else:
        hub = open_hub(hub_spec)
        where = hub.spec
        lines = listings(hub, cache)
    if not lines:
        return Report([], f"There are no packages in {where}.")
    header = ("NAME", "REVISION", "SIZE", "INPUT", "DIM", "HAS", "CACHED")
    return Report([_listing_data(line) for line in lines], format_table(map(_row, lines), header))


@click.command()
@_name_or_path
@_hub_option
@reporting
def info(name_or_path: str, hub_spec: str | None) -> Report:
    """Show what is known about a package."""
    cache = Cache()
    if is_path(name_or_path):
        card = card_of_package(Package.open(name_or_path))
        where = name_or_path
        revisions = [card.revision]
    else:
        card, where, revisions = _look_up(Reference.parse(name_or_path), hub_spec, cache)
    cached = card.revision in cache.revisions(card.config.name)
    data = {
        "name": card.config.name,
        "revision": card.revision,
        "from": where,
        "cached": cached,
        "size": card.manifest.size,
        "revisions": revisions,
        "files": card.manifest.model_dump()["files"],
        "config": card.config.model_dump(mode="json"),
        "metrics": card.metrics,
    }
    return Report(data, _describe(card, where, cached, revisions))


@click.command()
@_reference
@_hub_option
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


@click.command()
@_name_or_path
@click.option("--files-only", is_flag=True, help="Check the files, do not run the model.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    help="What to run on. Default: CUDA where it works.",
)
@reporting
def verify(name_or_path: str, files_only: bool, provider: Literal["cpu", "cuda"] | None) -> Report:
    """Check a package in the cache or a folder.

    Size and sha256 of every file must be the manifest's, and there must be no other files. Then
    the model runs on this machine, and must give its golden outputs.
    """
    package = _local_package(name_or_path)
    package.verify()
    name, files = package.config.name, len(package.manifest.files)
    data: dict[str, Any] = {
        "ok": True,
        "name": name,
        "revision": package.revision,
        "path": str(package.path),
        "files": files,
    }
    text = f"{name} {package.revision[:12]}: {files} files are right"
    if files_only:
        return Report(data, text)

    from repzoo.encoder import Encoder
    from repzoo.golden import check_golden

    encoder = Encoder(package.path, package.config, revision=package.revision, provider=provider)
    deviations = check_golden(encoder)
    data["provider"] = encoder.provider
    data["golden"] = [deviation._asdict() for deviation in deviations]
    rows = [(d.output, f"{d.largest:.2g}", f"{d.tolerance:.2g}") for d in deviations]
    table = format_table(rows, ("OUTPUT", "OFF BY", "ALLOWED"))
    return Report(data, f"{text}, golden outputs too on {encoder.provider}\n{table}")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--hub", "hub_spec", metavar="HUB", required=True, help="A store.")
@click.option("--files-only", is_flag=True, help="Check the files, do not run the model first.")
@reporting
def publish(folder: Path, hub_spec: str, files_only: bool) -> Report:
    """Publish a package to a store.

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


@click.command()
@_reference
@reporting
def rm(reference: Reference) -> Report:
    """Remove a package from the cache.

    NAME means all its revisions.
    """
    removed = Cache().remove(reference)
    lines = "\n".join(f"{reference.name} {revision[:12]}: removed" for revision in removed)
    return Report({"name": reference.name, "removed": removed}, lines)


@click.command()
@_reference
@reporting
def path(reference: Reference) -> Report:
    """Print where a package lies in the cache."""
    package = Cache().find(reference)
    data = {"name": reference.name, "revision": package.revision, "path": str(package.path)}
    return Report(data, str(package.path))


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


def _look_up(
    reference: Reference, hub_spec: str | None, cache: Cache
) -> tuple[Card, str, list[str]]:
    """A card, where it comes from, and the revisions that are there."""
    try:
        hub = open_hub(hub_spec)
        return card_on_hub(hub, reference), hub.spec, hub.revisions(reference.name)
    except (HubError, ModelNotFound):
        # What was pulled from another hub is known without it.
        if hub_spec is not None or not cache.revisions(reference.name):
            raise
        card = card_of_package(cache.find(reference))
        return card, f"the cache {cache.path}", cache.revisions(reference.name)


def _local_package(name_or_path: str) -> Package:
    if is_path(name_or_path):
        return Package.open(name_or_path)
    return Cache().find(Reference.parse(name_or_path))


def _cached_listings(cache: Cache) -> list[Listing]:
    lines = []
    for name in cache.names():
        for revision in cache.revisions(name):
            try:
                card = card_of_package(cache.find(Reference(name, revision)))
            except PackageError as error:
                lines.append(Listing(name, None, str(error), cached=True))
            else:
                lines.append(Listing(name, card, None, cached=True))
    return lines


def _listing_data(line: Listing) -> dict[str, Any]:
    data: dict[str, Any] = {"name": line.name, "cached": line.cached, "problem": line.problem}
    if line.card is None:
        return data
    config = line.card.config
    return data | {
        "revision": line.card.revision,
        "size": line.card.manifest.size,
        "summary": config.summary,
        "method": config.method,
        "input": list(config.input.shape),
        "latent_dim": config.latent_dim,
        "has_posterior": config.has_posterior,
        "has_decoder": config.has_decoder,
        "probes": [f"{probe.task}.{probe.kind}" for probe in config.probes],
    }


def _row(line: Listing) -> tuple[str, ...]:
    cached = "yes" if line.cached else "no"
    if line.card is None:
        return (line.name, "bad", "-", "-", "-", str(line.problem), cached)
    config = line.card.config
    return (
        line.name,
        line.card.revision[:12],
        format_bytes(line.card.manifest.size),
        _input(config),
        str(config.latent_dim),
        _abilities(config),
        cached,
    )


def _input(config: ModelConfig) -> str:
    height, width, channels = config.input.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def _abilities(config: ModelConfig) -> str:
    abilities = []
    if config.has_posterior:
        abilities.append("posterior")
    if config.has_decoder:
        abilities.append("decoder")
    if config.probes:
        abilities.append("probes")
    return ", ".join(abilities) or "-"


def _describe(card: Card, where: str, cached: bool, revisions: list[str]) -> str:
    config, training = card.config, card.config.training
    probes = [f"{p.task} ({p.kind}, {len(p.classes)} classes)" for p in config.probes]
    facts = [
        ("name", config.name),
        ("summary", config.summary),
        ("revision", card.revision),
        ("others", ", ".join(each[:12] for each in revisions if each != card.revision)),
        ("from", where),
        ("cached", "yes" if cached else "no"),
        ("size", f"{format_bytes(card.manifest.size)} in {len(card.manifest.files)} files"),
        ("method", config.method),
        ("input", _input(config)),
        (
            "latents",
            f"{config.latent_dim}, {config.precision}, compare by {config.metric} distance",
        ),
        ("has", _abilities(config)),
        ("probes", ", ".join(probes)),
        ("data", training.dataset),
        ("training", f"{training.recipe}: {training.views:,} views, seed {training.seed}"),
        ("trained on", f"{training.device}, {training.wall_seconds / 3600:.1f} h"),
        ("licence", config.licence),
        ("paper", config.paper or ""),
    ]
    return format_table((key, value) for key, value in facts if value)
