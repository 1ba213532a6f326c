"""What hubs and the cache have, for people to choose from: `zoo list` and `zoo info`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from repzoo.cache import Cache
from repzoo.config import ModelConfig
from repzoo.errors import HubError, IntegrityError, PackageError
from repzoo.hubs import Hub
from repzoo.package import Manifest, Package
from repzoo.reference import Reference

__all__ = ["Card", "Listing", "card_of_package", "card_on_hub", "listings"]


@dataclass(frozen=True)
class Card:
    """What is known about one revision of a package without running it."""

    config: ModelConfig
    manifest: Manifest
    revision: str
    #: the content of ``metrics.json``; None if there is none.
    metrics: Any


@dataclass(frozen=True)
class Listing:
    """One line of the catalogue."""

    name: str
    #: None if the hub's package cannot be used; ``problem`` then says why.
    card: Card | None
    problem: str | None
    #: whether this very revision is in the cache.
    cached: bool


def listings(hub: Hub, cache: Cache) -> list[Listing]:
    """The newest revision of every package of a hub; a bad one does not hide the others."""
    lines = []
    for name in hub.names():
        try:
            card = card_on_hub(hub, Reference(name))
        except (HubError, PackageError) as error:
            lines.append(Listing(name, None, str(error), cached=False))
        else:
            lines.append(Listing(name, card, None, card.revision in cache.revisions(name)))
    return lines


def card_on_hub(hub: Hub, reference: Reference) -> Card:
    """Read a package's card from a hub, fetching no more than that.

    Raises:
        ModelNotFound: if the hub has no such package.
        HubError: if the hub cannot be read.
        PackageError: if the package is not valid.
    """
    commit = hub.resolve(reference.name, reference.revision)
    data = hub.manifest(reference.name, commit)
    where = f"{reference.name} in {hub.spec}"
    manifest = Manifest.parse(data, where)

    def read(file: str) -> bytes:
        entry = manifest.files[file]
        with hub.open(reference.name, commit, file) as stream:
            content = stream.read(entry.size + 1)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise IntegrityError(f"{where}: {file} does not have the manifest's sha256", (file,))
        return content

    try:
        config = ModelConfig.model_validate_json(read("config.json"))
    except ValidationError as error:
        raise PackageError(f"{where}: config.json is not valid: {error}") from None
    metrics = read("metrics.json") if "metrics.json" in manifest.files else None
    return Card(config, manifest, hashlib.sha256(data).hexdigest(), _json(metrics, where))


def card_of_package(package: Package) -> Card:
    """Read the card of a package in a folder, which is not verified.

    Raises:
        PackageError: if the package is not valid.
    """
    path = package.path / "metrics.json"
    metrics = path.read_bytes() if path.is_file() else None
    return Card(package.config, package.manifest, package.revision, _json(metrics, str(path)))


def _json(data: bytes | None, where: str) -> Any:
    try:
        return None if data is None else json.loads(data)
    except ValueError as error:
        raise PackageError(f"{where}: metrics.json is not JSON: {error}") from None
