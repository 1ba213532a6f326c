"""`zoo list` and `zoo info`: show the packages of hubs and the cache."""

from __future__ import annotations

import click

from repzoo.cache.cache import Cache
from repzoo.catalogue.listing import Listing, LocatedCard, listings, listings_of_cache, look_up
from repzoo.commands.arguments import hub_option, name_or_path_argument
from repzoo.hubs.opening import open_hub
from repzoo.packages.config import ModelConfig, TrainingFacts
from repzoo.report import Report, format_bytes, format_table, reporting

__all__ = ["info", "list_"]


@click.command("list")
@hub_option
@click.option("--cached", is_flag=True, help="List the cache instead of a hub.")
@reporting
def list_(hub_spec: str | None, cached: bool) -> Report:
    """List the packages of a hub."""
    cache = Cache()
    if cached:
        where = f"the cache {cache.path}"
        lines = listings_of_cache(cache)
    else:
        hub = open_hub(hub_spec)
        where = hub.spec
        lines = listings(hub, cache)
    if not lines:
        return Report([], f"There are no packages in {where}.")
    header = ("NAME", "REVISION", "SIZE", "INPUT", "DIM", "HAS", "CACHED")
    return Report([line.data() for line in lines], format_table(map(_row, lines), header))


@click.command()
@name_or_path_argument
@hub_option
@reporting
def info(name_or_path: str, hub_spec: str | None) -> Report:
    """Show the details of a package."""
    cache = Cache()
    found = look_up(name_or_path, hub_spec, cache)
    card = found.card
    cached = card.revision in cache.revisions(card.config.name)
    data = {
        "name": card.config.name,
        "revision": card.revision,
        "from": found.where,
        "commit": found.commit,
        "cached": cached,
        "size": card.manifest.size,
        "revisions": found.commits,
        "tags": found.tags,
        "files": card.manifest.model_dump()["files"],
        "config": card.config.model_dump(mode="json"),
        "metrics": card.metrics,
    }
    return Report(data, _describe(found, cached))


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
        line.card.abilities or "-",
        cached,
    )


def _input(config: ModelConfig) -> str:
    height, width, channels = config.input.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def _describe(found: LocatedCard, cached: bool) -> str:
    card = found.card
    config, training = card.config, card.config.training
    tags = [tag for tag, commit in found.tags.items() if commit == found.commit]
    others = [_with_tags(each, found.tags) for each in found.commits if each != found.commit]
    probes = [f"{p.task} ({p.kind}, {len(p.classes)} classes)" for p in config.probes]
    facts = [
        ("name", config.name),
        ("summary", config.summary),
        ("revision", card.revision),
        ("commit", found.commit if found.commit != card.revision else ""),
        ("tags", ", ".join(sorted(tags))),
        ("others", ", ".join(others)),
        ("from", found.where),
        ("cached", "yes" if cached else "no"),
        ("size", f"{format_bytes(card.manifest.size)} in {len(card.manifest.files)} files"),
        ("method", config.method),
        ("input", _input(config)),
        (
            "latents",
            f"{config.latent_dim}, {config.precision}, {config.metric} distance recommended",
        ),
        ("has", card.abilities or "-"),
        ("probes", ", ".join(probes)),
        ("data", training.dataset if training is not None else ""),
        ("training", _training(training)),
        ("trained on", _trained_on(training)),
        ("imported from", config.source or ""),
        ("licence", config.licence),
        ("paper", config.paper or ""),
    ]
    return format_table((key, value) for key, value in facts if value)


def _with_tags(commit: str, tags: dict[str, str]) -> str:
    names = sorted(tag for tag, each in tags.items() if each == commit)
    return commit[:12] + (f" ({', '.join(names)})" if names else "")


def _training(facts: TrainingFacts | None) -> str:
    if facts is None:
        return ""
    return f"{facts.recipe}: {facts.views:,} views, seed {facts.seed}"


def _trained_on(facts: TrainingFacts | None) -> str:
    if facts is None:
        return ""
    minutes = facts.wall_seconds / 60
    return f"{facts.device}, " + (
        f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
    )
