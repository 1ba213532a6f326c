"""``config.json`` of a model package: one record with everything known about a model.

The schema is versioned. New fields always have defaults, so every older ``schema_version`` stays
loadable. Versions newer than this library are refused. A record is written with the oldest version
that has all of its fields, so older installations can read whatever does not need a newer one.

| version | adds |
| --- | --- |
| 1 | |
| 2 | ``content``, and content inputs of ``uncertainty``; ``input.resize.jpeg`` and ``.size``; |
| | ``aliases`` of probes; ``source`` instead of ``training``, for imported models |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from repzoo.errors import PackageError
from repzoo.packages.records import parse_record, read_file

__all__ = [
    "NAME_PATTERN",
    "SCHEMA_VERSION",
    "ContentSpec",
    "InputSpec",
    "ModelConfig",
    "ProbeSpec",
    "ResizePolicy",
    "TrainingFacts",
    "UncertaintySpec",
]

SCHEMA_VERSION = 2

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


Side = Annotated[int, Field(gt=0, le=4096)]


class ResizePolicy(_Record):
    """How a decoded image of any size becomes ``height x width`` pixels."""

    fit: Literal["crop", "squash"] = Field(
        "crop",
        description="crop scales the image to cover the target and keeps the centre; squash "
        "ignores the aspect ratio",
    )
    filter: Literal["box", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="Pillow's filter, used with antialiasing"
    )
    rounding: Literal["nearest", "floor"] = Field(
        "nearest", description="how the scaled length of the longer side is rounded to pixels"
    )
    jpeg: Literal["full", "scaled"] = Field(
        "full",
        description="how JPEG files are decoded: at full size, or scaled down by 2, 4 or 8 while "
        "both sides stay at least twice as long as the target's; files of more than 16 Mi pixels "
        "are always scaled down",
    )
    size: tuple[Side, Side] | None = Field(
        None,
        description="height and width before the centre is cropped, if larger than the target: "
        "many encoders see the middle 224 x 224 of 256 x 256 pixels",
    )


class InputSpec(_Record):
    """The input of ``encoder.onnx``: uint8 ``[N, height, width, channels]``."""

    height: Side = Field(description="pixels from top to bottom")
    width: Side = Field(description="pixels from left to right")
    channels: Literal[1, 3] = Field(description="1 for grey images, 3 for RGB")
    resize: ResizePolicy = Field(
        ResizePolicy(), description="how images of other sizes are scaled and cropped"
    )

    @model_validator(mode="after")
    def _crop_is_inside(self) -> InputSpec:
        height, width = self.scaled
        if height < self.height or width < self.width:
            raise ValueError(
                f"resize.size is {height} x {width}, smaller than the input of "
                f"{self.height} x {self.width}"
            )
        return self

    @property
    def scaled(self) -> tuple[int, int]:
        """``(height, width)`` that images are scaled to before the centre is cropped."""
        return self.resize.size or (self.height, self.width)

    @property
    def mode(self) -> Literal["L", "RGB"]:
        """Pillow's name for the colour mode."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(height, width, channels)``."""
        return self.height, self.width, self.channels


class ProbeSpec(_Record):
    """One head ``probes/TASK.KIND.onnx``: embedding ``[N, D]`` -> logits ``[N, len(classes)]``."""

    task: Name = Field(description="what is predicted, such as class or hair")
    kind: Name = Field("linear", description="the classifier, such as linear or mlp")
    aliases: tuple[Name, ...] = Field((), description="further names of the task")
    classes: tuple[str, ...] = Field(
        min_length=2, description="the label of each logit, in the order of the logits"
    )
    activation: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="softmax chooses one class; sigmoid decides each class on its own, so that an "
        "image can have several",
    )

    @property
    def multi_label(self) -> bool:
        return self.activation == "sigmoid"

    @property
    def file(self) -> str:
        return f"probes/{self.task}.{self.kind}.onnx"


class UncertaintySpec(_Record):
    """The output of ``uncertainty.onnx``: a calibrated probability in [0, 1].

    Other quantities than ``inputs``, such as the density under a mixture, are computed inside the
    graph, so that the uncertainty costs one small head.
    """

    probability_of: str = Field(description="the event, as a phrase")
    fitted_on: str = Field(description="the images that it was fitted and calibrated on")
    inputs: tuple[
        Literal["embedding", "log_variance", "images", "content_mean", "content_variance"], ...
    ] = Field(
        min_length=1,
        description="the graph's inputs: outputs of the encoder and of content.onnx, or images, "
        "the encoder's own input",
    )


class Region(_Record):
    """A region of the content posterior that holds a share of held-out targets t.

    m and v are the content mean and variance. Both limits are quantiles of held-out images (split
    conformal prediction: Vovk, Gammerman, Shafer 2005), so that nothing is assumed about the shape
    of the errors or their dependence.
    """

    probability: float = Field(gt=0, lt=1, description="the share of targets in the region")
    deviations: float = Field(
        gt=0, description="the limit in one dimension: |t_d − m_d| ≤ deviations · √v_d"
    )
    distance: float = Field(
        gt=0, description="the limit in all dimensions: mean_d (t_d − m_d)²/v_d ≤ distance"
    )


class ContentSpec(_Record):
    """The outputs of ``content.onnx``: the content posterior, a diagonal Gaussian per image.

    ``content_mean`` and ``content_variance`` ``[N, D]`` say where the embedding of a fresh, mild
    view of the undegraded image lies.
    """

    target: str = Field(description="what the Gaussian describes, as a sentence")
    fitted_on: str = Field(description="the images and degradations that it was fitted to")
    unit_length: bool = Field(description="whether the embedding that it predicts has length 1")
    inputs: tuple[Literal["embedding", "log_variance", "images"], ...] = Field(
        min_length=1,
        description="the graph's inputs: outputs of the encoder, or images, its own input",
    )
    regions: tuple[Region, ...] = Field(
        (), description="how far the content mean is off, for several shares of the cases"
    )


class TrainingFacts(_Record):
    """How the weights were trained."""

    dataset: str = Field(description="the name of the training images")
    dataset_sha256: str | None = Field(None, description="the SHA-256 of the training images")
    recipe: str = Field(description="the recipe that was trained")
    views: int = Field(ge=0, description="views seen during training, over all epochs")
    epochs: float = Field(ge=0, description="how often each image was seen")
    seed: int = Field(description="the seed of weights, views and batches")
    wall_seconds: float = Field(ge=0, description="the time that training took")
    device: str = Field(description="the processor that trained")
    code_commit: str | None = Field(None, description="the Git commit of the training code")


class ModelConfig(_Record):
    """The record of one model."""

    schema_version: int = Field(1, description="the version of this record's format")
    name: Name = Field(description="the model's name, as in zoo pull NAME")
    summary: str = Field("", description="one line for lists of models")
    method: Name = Field(description="the training objective, such as simvae")
    latent_dim: int = Field(gt=0, description="D, the number of dimensions of an embedding")
    precision: Precision = Field(
        "float32",
        description="how weights are stored: float16 weights are computed in float32, int8 models "
        "compute in integers",
    )
    likelihood: Literal["bernoulli", "gaussian"] | None = Field(
        None, description="of pixels, in the objective; null if the method has none"
    )
    input: InputSpec = Field(description="the images that the encoder takes")
    outputs: tuple[Literal["embedding", "log_variance"], ...] = Field(
        ("embedding",), description="the outputs of encoder.onnx, each float32 [N, D]"
    )
    has_posterior: bool = Field(description="whether outputs has log_variance")
    has_decoder: bool = Field(description="whether there is a decoder.onnx")
    probes: tuple[ProbeSpec, ...] = Field((), description="the classifiers on the embedding")
    uncertainty: UncertaintySpec | None = Field(
        None, description="what uncertainty.onnx computes; null without one"
    )
    content: ContentSpec | None = Field(
        None, description="what content.onnx computes; null without one"
    )
    metric: Literal["cosine", "euclidean"] = Field(
        "euclidean", description="the recommended distance between embeddings"
    )
    tolerances: dict[str, dict[ProviderClass, float]] = Field(
        description="by output and cpu or cuda, the largest absolute difference from the golden "
        "outputs that zoo verify accepts"
    )
    training: TrainingFacts | None = Field(
        None, description="how the weights were trained; null for an imported model"
    )
    source: str | None = Field(None, description="where an imported model comes from")
    licence: str = Field(description="the licence of the weights, such as apache-2.0")
    paper: str | None = Field(None, description="the paper of the method, such as arXiv:2402.01399")

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
        available: tuple[str, ...] = (*self.outputs, "images")
        if self.content is not None:
            if not {*self.content.inputs} <= {*available}:
                raise ValueError(
                    f"content.inputs are {', '.join(self.content.inputs)}; this model has only "
                    f"{', '.join(available)}"
                )
            available = (*available, "content_mean", "content_variance")
        if self.uncertainty is not None and not {*self.uncertainty.inputs} <= {*available}:
            raise ValueError(
                f"uncertainty.inputs are {', '.join(self.uncertainty.inputs)}; this model has only "
                f"{', '.join(available)}"
            )
        if self.has_posterior != ("log_variance" in self.outputs):
            raise ValueError("has_posterior must be true exactly when outputs has 'log_variance'")
        heads = [(name, p.kind) for p in self.probes for name in (p.task, *p.aliases)]
        if len(set(heads)) != len(heads):
            raise ValueError("two probes have the same task and kind")
        if (self.training is None) == (self.source is None):
            raise ValueError("either 'training' or 'source' must say where the weights come from")
        return self

    @property
    def required_version(self) -> int:
        """The oldest schema version that has all fields of this record."""
        inputs = () if self.uncertainty is None else self.uncertainty.inputs
        new = (
            self.content is not None
            or self.training is None
            or self.input.resize.jpeg != "full"
            or self.input.resize.size is not None
            or any(probe.aliases for probe in self.probes)
            or any(name.startswith("content_") for name in inputs)
        )
        return 2 if new else 1

    @property
    def dataset(self) -> str:
        """The data set that the model was trained on, or where an imported model comes from."""
        return self.training.dataset if self.training is not None else self.source or ""

    @property
    def facts(self) -> TrainingFacts:
        """The training facts.

        Raises:
            PackageError: If the model was imported, and so has no training facts.
        """
        if self.training is None:
            raise PackageError(
                f"{self.name} was imported from {self.source}: its training is not known"
            )
        return self.training

    def probe(self, task: str, kind: str = "linear") -> ProbeSpec | None:
        """Return the probe for ``task``, which may be an alias, and ``kind``, or None."""
        return next(
            (p for p in self.probes if task in (p.task, *p.aliases) and p.kind == kind), None
        )

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
        Path(path).write_text(json.dumps(self.record(), indent=2, ensure_ascii=False) + "\n")

    def record(self) -> dict[str, Any]:
        """Return the record as JSON values, in the oldest schema version that has its fields."""
        version = self.required_version
        values = self.model_dump(mode="json") | {"schema_version": version}
        if self.input.resize.size is None:
            del values["input"]["resize"]["size"]
        if version < 2:
            del values["content"], values["source"], values["input"]["resize"]["jpeg"]
            for probe in values["probes"]:
                del probe["aliases"]
        return values
