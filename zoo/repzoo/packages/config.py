"""``config.json`` of a model package: everything that is known about a model, in one flat record.

The schema is versioned. Fields are only ever added with defaults, so every older
``schema_version`` stays loadable; a newer one than this library knows is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from repzoo.errors import PackageError

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

#: Names of models, tasks and probe kinds become file names and URL segments.
NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

#: Provider classes that tolerances are stated for.
ProviderClass = Literal["cpu", "cuda"]

#: ``float16`` is stored so and computed in float32; ``int8`` is computed in integers.
Precision = Literal["float32", "float16", "int8"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResizePolicy(_Record):
    """How a decoded image of any size becomes ``height x width`` pixels.

    ``crop`` scales the image to cover the target and cuts the centre out of it, ``squash`` ignores
    the aspect ratio. ``filter`` is Pillow's, with antialiasing. ``rounding`` says how the scaled
    size of the longer side becomes whole pixels.
    """

    fit: Literal["crop", "squash"] = "crop"
    filter: Literal["box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    rounding: Literal["nearest", "floor"] = "nearest"


class InputSpec(_Record):
    """What ``encoder.onnx`` takes: uint8 ``[N, height, width, channels]``."""

    height: int = Field(gt=0, le=4096)
    width: int = Field(gt=0, le=4096)
    channels: Literal[1, 3]
    resize: ResizePolicy = ResizePolicy()

    @property
    def mode(self) -> Literal["L", "RGB"]:
        """Pillow's name of the colour mode."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(height, width, channels)``."""
        return self.height, self.width, self.channels


class ProbeSpec(_Record):
    """One head ``probes/TASK.KIND.onnx``: embedding ``[N, D]`` -> logits ``[N, len(classes)]``.

    ``softmax`` heads choose one class; ``sigmoid`` heads are multi-label, one yes or no a class.
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
    """What ``uncertainty.onnx`` answers: a calibrated probability in [0, 1].

    ``inputs`` are outputs of the encoder, and ``images``: what the encoder was given. What else an
    uncertainty may depend on, such as the density under a mixture, is computed inside the graph,
    so that it costs one small head.
    """

    probability_of: str
    fitted_on: str
    inputs: tuple[Literal["embedding", "log_variance", "images"], ...] = Field(min_length=1)


class TrainingFacts(_Record):
    """Where the weights come from."""

    dataset: str
    dataset_sha256: str | None = None
    recipe: str
    views: int = Field(ge=0, description="views seen in training, all epochs together")
    epochs: float = Field(ge=0)
    seed: int
    wall_seconds: float = Field(ge=0)
    device: str
    code_commit: str | None = None


class ModelConfig(_Record):
    """The record of one model. See the fields' own types for their meaning.

    ``tolerances[output][provider class]`` is the largest absolute difference from the golden
    outputs that ``zoo verify`` accepts. ``metric`` is the recommended distance on embeddings.
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
                f"schema_version is {version}; this repzoo reads 1 to {SCHEMA_VERSION}: upgrade it"
            )
        return version

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.outputs[:1] != ("embedding",):
            raise ValueError("outputs must begin with 'embedding'")
        there = (*self.outputs, "images")
        if self.uncertainty is not None and not {*self.uncertainty.inputs} <= {*there}:
            raise ValueError(f"uncertainty takes {self.uncertainty.inputs} of {there}")
        if self.has_posterior != ("log_variance" in self.outputs):
            raise ValueError("has_posterior must be true exactly when outputs has 'log_variance'")
        heads = [(probe.task, probe.kind) for probe in self.probes]
        if len(set(heads)) != len(heads):
            raise ValueError("two probes share a task and kind")
        return self

    def probe(self, task: str, kind: str = "linear") -> ProbeSpec | None:
        """The probe for ``task`` and ``kind``, or None."""
        return next((p for p in self.probes if (p.task, p.kind) == (task, kind)), None)

    @classmethod
    def read(cls, path: str | Path) -> ModelConfig:
        """Read and validate a ``config.json``.

        Raises:
            PackageError: if the file is missing, not JSON, or not a valid record.
        """
        path = Path(path)
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise PackageError(f"{path.parent} is not a model package: no config.json") from None
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()
            )
            raise PackageError(f"{path}: {problems}") from None

    def write(self, path: str | Path) -> None:
        """Write the record as indented JSON, ending in a newline."""
        Path(path).write_text(self.model_dump_json(indent=2) + "\n")
