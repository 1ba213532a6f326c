"""`repzoo.load`: from a name or a path to a running encoder."""

from __future__ import annotations

import os

from repzoo.encoder import Encoder, Provider
from repzoo.package import Package

__all__ = ["load"]


def load(
    name_or_path: str | os.PathLike[str],
    *,
    hub: str | None = None,
    revision: str | None = None,
    provider: Provider | None = None,
    threads: int | None = None,
) -> Encoder:
    package = Package.open(name_or_path)
    package.verify()
    return Encoder(
        package.path,
        package.config,
        revision=package.revision,
        provider=provider,
        threads=threads,
    )
