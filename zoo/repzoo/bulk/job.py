"""The description of a run, which determines its output."""

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

#: Files in the folder of the parts.
JOB = "job.json"
LISTING = "listing.parquet"

_KEY = b"repzoo"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Job:
    """Everything that the output depends on. It is stored in the output's metadata.

    Two runs with equal jobs write the same bytes.
    """

    model: str
    revision: str
    source: str
    #: See `Listing.digest`.
    source_digest: str
    kind: str
    images: int
    dim: int
    posterior: bool
    normalize: bool
    uncertainty: bool
    provider: str
    part_size: int
    #: Whether embeddings are content means. Runs of version 0.1 do not record it.
    robust: bool = False
    version: int = 1

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.images // self.part_size)

    def range(self, part: int) -> tuple[int, int]:
        """Return the numbers of a part's first image and of the next part's first image."""
        return part * self.part_size, min((part + 1) * self.part_size, self.images)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the output. In each row, all but ``id`` are null, or only ``error`` is."""
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
            Conflict: If the job that was found is another one; the message says how they differ.
        """
        mine, found = asdict(self), {"robust": False, **found}
        if "source_digest" in found and found.get("source") == self.source:
            differing = [key for key in mine if found.get(key) != mine[key]]
            if set(differing) <= {"source_digest", "images"} and differing:
                raise Conflict(
                    f"{where} holds {found['images']:,} images of {self.source}, which has changed "
                    f"since; use --overwrite to start again, or another --out"
                )
        differing = [
            f"{key.replace('_', ' ')} {_short(found.get(key))}, not {_short(mine[key])}"
            for key in mine
            if found.get(key) != mine[key] and key != "source_digest"
        ]
        if differing:
            raise Conflict(
                f"{where} belongs to another run: {'; '.join(differing)}; use --overwrite to start "
                f"again, or another --out"
            )

    @staticmethod
    def of_output(out: Place) -> Mapping[str, Any] | None:
        """Return the job of an output, or None if `zoo embed` did not write it."""
        try:
            with out.open() as stream:
                metadata = pq.read_schema(stream).metadata or {}
            found = json.loads(metadata[_KEY])
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return None
        return found if isinstance(found, dict) else None

    @classmethod
    def make(cls, encoder: Encoder, **rest: Any) -> Job:
        """Return the job of an encoder, with the other fields given."""
        return cls(
            model=encoder.config.name,
            revision=encoder.revision,
            dim=encoder.config.latent_dim,
            uncertainty=encoder.config.uncertainty is not None,
            provider=encoder.provider,
            **rest,
        )


def part_name(part: int) -> str:
    """Return the name of a part's file."""
    return f"part-{part:06d}.parquet"


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if _DIGEST.fullmatch(text) else text
