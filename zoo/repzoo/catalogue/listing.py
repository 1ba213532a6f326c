"""The packages of hubs and the cache, for `zoo list`, `info`, `find` and `diff`."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from repzoo.cache.cache import Cache
from repzoo.errors import HubError, IntegrityError, ModelNotFound, PackageError
from repzoo.hub import Hub
from repzoo.hubs.opening import hub_of
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Manifest, Package
from repzoo.packages.records import parse_record, read_file
from repzoo.packages.reference import Reference, is_path, naming_folder

__all__ = [
    "Card",
    "Listing",
    "LocatedCard",
    "card_of_package",
    "card_on_hub",
    "listings",
    "listings_of_cache",
    "look_up",
]

#: Limit on the size of a card's files. A hub may claim any size.
MAX_CARD_BYTES = 2**24
#: The number of cards that are read from a hub in parallel.
_AT_ONCE = 8


@dataclass(frozen=True)
class Card:
    """Everything known about one revision of a package without running it."""

    config: ModelConfig
    manifest: Manifest
    revision: str
    #: The content of ``metrics.json``, or None if the package does not have it.
    metrics: Any

    @property
    def abilities(self) -> str:
        """The model's abilities besides embedding: posterior, content posterior, and so on."""
        config = self.config
        can = {
            "posterior": config.has_posterior,
            "content posterior": config.content is not None,
            "decoder": config.has_decoder,
            "uncertainty": config.uncertainty is not None,
            "probes": bool(config.probes),
        }
        return ", ".join(name for name, has in can.items() if has)


@dataclass(frozen=True)
class Listing:
    """One entry of a list of packages."""

    name: str
    #: None if the package is not valid. ``problem`` gives the reason.
    card: Card | None
    problem: str | None
    #: Whether this exact revision is in the cache.
    cached: bool

    def data(self) -> dict[str, Any]:
        """Return the entry as JSON data."""
        data: dict[str, Any] = {"name": self.name, "cached": self.cached, "problem": self.problem}
        if self.card is None:
            return data
        config = self.card.config
        return data | {
            "revision": self.card.revision,
            "size": self.card.manifest.size,
            "summary": config.summary,
            "method": config.method,
            "input": list(config.input.shape),
            "latent_dim": config.latent_dim,
            "has_posterior": config.has_posterior,
            "has_decoder": config.has_decoder,
            "probes": [f"{probe.task}.{probe.kind}" for probe in config.probes],
        }


class LocatedCard(NamedTuple):
    """A card, with its location and history."""

    card: Card
    #: A hub's spec, the cache or a path.
    where: str
    #: The package's commits in that place, the newest first, in the hub's own naming.
    commits: list[str]
    #: The commit of this card.
    commit: str
    #: The commit of each tag.
    tags: dict[str, str]


def listings(hub: Hub, cache: Cache) -> list[Listing]:
    """List the newest revision of every package of a hub, including packages that are not valid."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(partial(_listing, hub, cache), hub.names()))


def _listing(hub: Hub, cache: Cache, name: str) -> Listing:
    try:
        card = card_on_hub(hub, Reference(name))
    except (HubError, ModelNotFound, PackageError) as error:
        return Listing(name, None, str(error), cached=False)
    return Listing(name, card, None, card.revision in cache.revisions(name))


def listings_of_cache(cache: Cache) -> list[Listing]:
    """List every revision of every package in the cache."""
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


def look_up(name_or_path: str, hub_spec: str | None, cache: Cache) -> LocatedCard:
    """Find the card for a name or a path. The cache is used if the default hub does not have it.

    Raises:
        InvalidInput: If the text is neither a name nor a path.
        ModelNotFound: If the package or revision does not exist.
        HubError: If the hub cannot be read.
        PackageError: If the package is not valid.
    """
    if is_path(name_or_path, named=hub_spec is not None):
        card = card_of_package(Package.open(name_or_path))
        return LocatedCard(card, name_or_path, [card.revision], card.revision, {})
    reference = Reference.parse(name_or_path)
    asked = reference.hub_or(hub_spec)
    try:
        with (
            naming_folder(name_or_path),
            hub_of(reference.name, asked, cache.names) as (hub, brief),
        ):
            resolve = partial(hub.resolve, reference.name, reference.revision)
            commit = resolve() if brief is None else brief(resolve)
        return LocatedCard(
            card_on_hub(hub, Reference(reference.name, commit)),
            hub.spec,
            hub.revisions(reference.name),
            commit,
            hub.tags(reference.name),
        )
    except (HubError, ModelNotFound):
        # Packages that were pulled from another hub are in the cache.
        if asked is not None or not cache.revisions(reference.name):
            raise
        card = card_of_package(cache.find(reference))
        revisions = cache.revisions(reference.name)
        return LocatedCard(card, f"the cache {cache.path}", revisions, card.revision, {})


def card_on_hub(hub: Hub, reference: Reference) -> Card:
    """Read a package's card from a hub, without fetching other files.

    Raises:
        ModelNotFound: If the hub has no such package.
        HubError: If the hub cannot be read.
        PackageError: If the package is not valid.
    """
    commit = hub.resolve(reference.name, reference.revision)
    data = hub.manifest(reference.name, commit)
    where = f"{reference.name} in {hub.spec}"
    manifest = Manifest.parse(data, where)

    def read(file: str) -> bytes:
        entry = manifest.files[file]
        if entry.size > MAX_CARD_BYTES:
            raise PackageError(f"{where}: {file} has more than {MAX_CARD_BYTES} bytes")
        with hub.open(reference.name, commit, file) as stream:
            content = stream.read(entry.size + 1)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise IntegrityError(f"{where}: {file} does not have the manifest's sha256", (file,))
        return content

    config = parse_record(ModelConfig, read("config.json"), f"{where}: config.json")
    metrics = read("metrics.json") if "metrics.json" in manifest.files else None
    return Card(config, manifest, hashlib.sha256(data).hexdigest(), _json(metrics, where))


def card_of_package(package: Package) -> Card:
    """Read the card of a package in a folder without verifying the package.

    Raises:
        PackageError: If the package is not valid.
    """
    path = package.path / "metrics.json"
    metrics = read_file(path, MAX_CARD_BYTES) if path.exists() else None
    return Card(package.config, package.manifest, package.revision, _json(metrics, str(path)))


def _json(data: bytes | None, where: str) -> Any:
    try:
        # NaN is not JSON, and other programs could not read what --json prints.
        return None if data is None else json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{where}: metrics.json is not JSON: {error}") from None
