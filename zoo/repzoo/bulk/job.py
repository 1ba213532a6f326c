"""What is to be done, and what of it is there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from repzoo.bulk.places import Place
from repzoo.errors import Conflict
from repzoo.runtime.encoder import Encoder

__all__ = ["JOB", "LISTING", "Job", "part_name"]

#: Files beside the parts.
JOB = "job.json"
LISTING = "listing.parquet"

_KEY = b"repzoo"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Job:
    """Everything that the output depends on; it stands in the output's metadata.

    Two runs with equal jobs make the same bytes.
    """

    model: str
    revision: str
    source: str
    #: see `Listing.digest`.
    source_digest: str
    kind: str
    images: int
    dim: int
    posterior: bool
    normalize: bool
    uncertainty: bool
    provider: str
    part_size: int
    version: int = 1

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return -(-self.images // self.part_size)

    def range(self, part: int) -> tuple[int, int]:
        """The first image of a part, and that of the next."""
        return part * self.part_size, min((part + 1) * self.part_size, self.images)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the output: what is null is not there for an image that has an error."""
        vector = pa.list_(pa.float32(), self.dim)
        fields = [pa.field("id", pa.string(), nullable=False), pa.field("embedding", vector)]
        if self.posterior:
            fields.append(pa.field("variance", vector))
        if self.uncertainty:
            fields.append(pa.field("uncertainty", pa.float32()))
        fields.append(pa.field("error", pa.string()))
        return pa.schema(fields, {_KEY: self.to_json()})

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def require_same(self, where: Place, found: Mapping[str, Any]) -> None:
        """Refuse to mix two jobs.

        Raises:
            Conflict: saying in what the one found differs.
        """
        mine = asdict(self)
        if "source_digest" in found and found.get("source") == self.source:
            differing = [key for key in mine if found.get(key) != mine[key]]
            if set(differing) <= {"source_digest", "images"} and differing:
                raise Conflict(
                    f"{where} is of {found['images']:,} images of {self.source}, which has changed "
                    f"since; --overwrite starts anew, or choose another --out"
                )
        differing = [
            f"{key.replace('_', ' ')} {_short(found.get(key))}, not {_short(mine[key])}"
            for key in mine
            if found.get(key) != mine[key] and key != "source_digest"
        ]
        if differing:
            raise Conflict(
                f"{where} is of another run: {'; '.join(differing)}; --overwrite starts anew, or "
                f"choose another --out"
            )

    @staticmethod
    def of_output(out: Place) -> Mapping[str, Any] | None:
        """The job that an output is of; None if it is of none."""
        try:
            with out.open() as stream:
                metadata = pq.read_schema(stream).metadata or {}
            found: Mapping[str, Any] = json.loads(metadata[_KEY])
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return None
        return found

    @classmethod
    def make(cls, encoder: Encoder, *, posterior: bool, normalize: bool, **rest: Any) -> Job:
        """The job of an encoder on what else is given."""
        return cls(
            model=encoder.config.name,
            revision=encoder.revision,
            dim=encoder.config.latent_dim,
            uncertainty=encoder.config.uncertainty is not None,
            provider=encoder.provider,
            posterior=posterior,
            normalize=normalize,
            **rest,
        )


def part_name(part: int) -> str:
    """The name of a part's file."""
    return f"part-{part:06d}.parquet"


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if _DIGEST.fullmatch(text) else text
