"""`zoo list` and `zoo info`: what hubs and the cache have."""

from __future__ import annotations

from typing import Any

import click

from repzoo.cache import Cache
from repzoo.catalogue import Card, Listing, card_of_package, card_on_hub, listings
from repzoo.commands.arguments import hub_option, name_or_path_argument
from repzoo.config import ModelConfig
from repzoo.errors import HubError, ModelNotFound, PackageError
from repzoo.hubs import open_hub
from repzoo.package import Package
from repzoo.reference import Reference, is_path
from repzoo.report import Report, format_bytes, format_table, reporting

__all__ = ["info", "list_"]


@click.command("list")
@hub_option
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
@name_or_path_argument
@hub_option
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


def _look_up(
    reference: Reference, hub_spec: str | None, cache: Cache
) -> tuple[Card, str, list[str]]:
    """A card, where it comes from, and the revisions that are there."""
    try:
        hub = open_hub(reference.hub_or(hub_spec), reference.name)
        return card_on_hub(hub, reference), hub.spec, hub.revisions(reference.name)
    except (HubError, ModelNotFound):
        # What was pulled from another hub is known without it.
        if hub_spec is not None or not cache.revisions(reference.name):
            raise
        card = card_of_package(cache.find(reference))
        return card, f"the cache {cache.path}", cache.revisions(reference.name)


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
