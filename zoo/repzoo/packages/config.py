"""``config.json`` of a model package: one record with everything known about a model.

The schema is versioned. New fields always have defaults, so every older ``schema_version`` stays
loadable. Versions newer than this library are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from repzoo.errors import PackageError
from repzoo.packages.records import parse_record, read_file

__all__ = [
    "NAME_PATTERN",
    "SCHEMA_VERSION",
    "InputSpec",
    "ModelConfig",
    "ProbeSpec",
    "ResizePolicy",
    "TrainingFacts",
    "UncertaintySpec",
]

SCHEMA_VERSION = 1

#: Limit on the size of a ``config.json``; ImageNet's class names take 30 KB.
MAX_CONFIG_BYTES = 2**24

#: Names of models, tasks and probe kinds. They become file names and URL segments.
NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

#: Provider classes with their own tolerances.
ProviderClass = Literal["cpu", "cuda"]

#: ``float16`` weights are stored in half precision and computed in float32; ``int8`` models compute
#: in integers.
Precision = Literal["float32", "float16", "int8"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResizePolicy(_Record):
    """How a decoded image of any size becomes ``height x width`` pixels.

    ``crop`` scales the image to cover the target and keeps the centre. ``squash`` ignores the
    aspect ratio. ``filter`` names a Pillow filter, used with antialiasing. ``rounding`` says how
    the scaled length of the longer side is rounded to whole pixels.
    """

    fit: Literal["crop", "squash"] = "crop"
    filter: Literal["box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    rounding: Literal["nearest", "floor"] = "nearest"


class InputSpec(_Record):
    """The input of ``encoder.onnx``: uint8 ``[N, height, width, channels]``."""

    height: int = Field(gt=0, le=4096)
    width: int = Field(gt=0, le=4096)
    channels: Literal[1, 3]
    resize: ResizePolicy = ResizePolicy()

    @property
    def mode(self) -> Literal["L", "RGB"]:
        """Pillow's name for the colour mode."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(height, width, channels)``."""
        return self.height, self.width, self.channels


class ProbeSpec(_Record):
    """One head ``probes/TASK.KIND.onnx``: embedding ``[N, D]`` -> logits ``[N, len(classes)]``.

    ``softmax`` heads choose one class. ``sigmoid`` heads are multi-label: each class is decided on
    its own.
    """

    task: Name
    kind: Name = "linear"
    classes: tuple[str, ...] = Field(min_length=2)
    activation: Literal["softmax", "sigmoid"] = "softmax"

    @property
    def multi_label(self) -> bool:
        return self.activation == "sigmoid"

    @property
    def file(self) -> str:
        return f"probes/{self.task}.{self.kind}.onnx"


class UncertaintySpec(_Record):
    """The output of ``uncertainty.onnx``: a calibrated probability in [0, 1].

    ``inputs`` may name outputs of the encoder, and ``images``, the encoder's own input. Other
    quantities, such as the density under a mixture, are computed inside the graph, so that the
    uncertainty costs one small head.
    """

    probability_of: str
    fitted_on: str
    inputs: tuple[Literal["embedding", "log_variance", "images"], ...] = Field(min_length=1)


class TrainingFacts(_Record):
    """Where the weights come from."""

    dataset: str
    dataset_sha256: str | None = None
    recipe: str
    views: int = Field(ge=0, description="views seen during training, over all epochs")
    epochs: float = Field(ge=0)
    seed: int
    wall_seconds: float = Field(ge=0)
    device: str
    code_commit: str | None = None


class ModelConfig(_Record):
    """The record of one model. The types of the fields document their meaning.

    ``tolerances[output][provider class]`` is the largest absolute difference from the golden
    outputs that ``zoo verify`` accepts. ``metric`` is the recommended distance between embeddings.
    """

    schema_version: int = SCHEMA_VERSION
    name: Name
    summary: str = ""
    method: Name
    latent_dim: int = Field(gt=0)
    precision: Precision = "float32"
    likelihood: Literal["bernoulli", "gaussian"] | None = None
    input: InputSpec
    outputs: tuple[Literal["embedding", "log_variance"], ...] = ("embedding",)
    has_posterior: bool
    has_decoder: bool
    probes: tuple[ProbeSpec, ...] = ()
    uncertainty: UncertaintySpec | None = None
    metric: Literal["cosine", "euclidean"] = "euclidean"
    tolerances: dict[str, dict[ProviderClass, float]]
    training: TrainingFacts
    licence: str
    paper: str | None = None

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        if not 1 <= version <= SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {version}, but this version of repzoo reads 1 to "
                f"{SCHEMA_VERSION}: upgrade repzoo"
            )
        return version

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.outputs[:1] != ("embedding",):
            raise ValueError("outputs must begin with 'embedding'")
        available = (*self.outputs, "images")
        if self.uncertainty is not None and not {*self.uncertainty.inputs} <= {*available}:
            raise ValueError(
                f"uncertainty.inputs are {', '.join(self.uncertainty.inputs)}; this model has only "
                f"{', '.join(available)}"
            )
        if self.has_posterior != ("log_variance" in self.outputs):
            raise ValueError("has_posterior must be true exactly when outputs has 'log_variance'")
        heads = [(probe.task, probe.kind) for probe in self.probes]
        if len(set(heads)) != len(heads):
            raise ValueError("two probes have the same task and kind")
        return self

    def probe(self, task: str, kind: str = "linear") -> ProbeSpec | None:
        """Return the probe for ``task`` and ``kind``, or None if there is no such probe."""
        return next((p for p in self.probes if (p.task, p.kind) == (task, kind)), None)

    @classmethod
    def read(cls, path: str | Path) -> ModelConfig:
        """Read and validate a ``config.json``.

        Raises:
            PackageError: If the file does not exist, cannot be read, is not JSON, or is not a valid
                record.
        """
        path = Path(path)
        try:
            return parse_record(cls, read_file(path, MAX_CONFIG_BYTES), str(path))
        except FileNotFoundError:
            raise PackageError(
                f"{path.parent} is not a model package: it has no config.json"
            ) from None

    def write(self, path: str | Path) -> None:
        """Write the record as indented JSON that ends in a newline."""
        Path(path).write_text(self.model_dump_json(indent=2) + "\n")
