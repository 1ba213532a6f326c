"""Operations on images: what is sent, how answers become results, what replaces a bad image."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from repzoo_client._chunks import Chunk
from repzoo_client._options import Distance, Metric
from repzoo_client._results import (
    Embedding,
    Model,
    Neighbours,
    Posterior,
    Predictions,
    Reconstruction,
)
from repzoo_client._wire import Answer
from repzoo_client.errors import UnexpectedAnswer

__all__ = [
    "Call",
    "embed",
    "embed_with_uncertainty",
    "model_path",
    "posterior",
    "probe",
    "read_model",
    "read_models",
    "reconstruct",
    "search",
    "uncertainty",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One operation on any number of images."""

    operation: str
    #: Options sent with every request, including ``model``.
    options: Mapping[str, Any]
    #: Makes the result from the answers for all chunks, in order.
    join: Callable[[Sequence[Answer]], T]
    #: Makes the answer for one image that failed: a row of each array, and facts.
    blank: Callable[[Model], Answer]
    #: The facts that have an entry for each image.
    listed: tuple[str, ...] = ("labels",)

    @property
    def model(self) -> str:
        name: str = self.options["model"]
        return name

    def fill(self, model: Model, chunk: Chunk, parts: Sequence[tuple[Chunk, Answer]]) -> Answer:
        """Combine the answers for parts of a chunk into one for all of its images."""
        if len(parts) == 1 and len(parts[0][0].places) == chunk.size:
            return parts[0][1]
        blank = self.blank(model)
        tensors = {}
        for name, row in blank.tensors.items():
            # An answer knows how many neighbours there are.
            shape = parts[0][1][name].shape[1:] if parts else row.shape
            tensors[name] = np.repeat(np.broadcast_to(row, shape)[None], chunk.size, axis=0)
        listed = {name: [blank.facts.get(name)] * chunk.size for name in self.listed}
        for part, answer in parts:
            rows = [place - chunk.first for place in part.places]
            for name, tensor in tensors.items():
                tensor[rows] = answer[name]
            for name, entries in listed.items():
                for place, entry in zip(rows, answer.facts.get(name, ()), strict=False):
                    entries[place] = entry
        return Answer(tensors, {**blank.facts, **listed})


def embed(model: str, *, normalize: bool, robust: bool) -> Call[NDArray[np.float32]]:
    """Return the call whose result is ``[N, D]``."""
    return _embed(model, normalize, robust, lambda answers: _join(answers, "embeddings"))


def embed_with_uncertainty(model: str, *, normalize: bool, robust: bool) -> Call[Embedding]:
    """Return the call for embeddings and uncertainties."""
    return _embed(
        model,
        normalize,
        robust,
        lambda answers: Embedding(_join(answers, "embeddings"), _calibrated(answers)),
    )


def uncertainty(model: str) -> Call[NDArray[np.float32] | None]:
    """Return the call whose result is ``[N]``, or None."""
    return _embed(model, False, False, _calibrated)


def posterior(model: str, *, content: bool) -> Call[Posterior]:
    """Return the call for the moments of both posteriors, and uncertainties."""

    def join(answers: Sequence[Answer]) -> Posterior:
        return Posterior(
            _join(answers, "mean"),
            _optional(answers, "variance"),
            _calibrated(answers),
            _optional(answers, "content_mean"),
            _optional(answers, "content_variance"),
        )

    def blank(model: Model) -> Answer:
        rows = dict(_blank_embedding(model).tensors)
        rows["mean"] = rows.pop("embeddings")
        if "posterior" in model.capabilities:
            rows["variance"] = rows["mean"]
        if "content" in model.capabilities:
            rows["content_mean"] = rows["content_variance"] = rows["mean"]
        return Answer(rows, {})

    # Servers before version 0.2 refuse options that they do not know.
    options = {"model": model} | ({"content": True} if content else {})
    return Call("posterior", options, join, blank)


def reconstruct(model: str) -> Call[Reconstruction]:
    """Return the call for images and errors."""

    def join(answers: Sequence[Answer]) -> Reconstruction:
        return Reconstruction(_join(answers, "images"), _join(answers, "error"))

    def blank(model: Model) -> Answer:
        return Answer({"images": np.zeros(model.input_shape, np.uint8), "error": _nan()}, {})

    return Call("reconstruct", {"model": model}, join, blank)


def probe(model: str, task: str, kind: str) -> Call[Predictions]:
    """Return the call for classes, probabilities and labels."""

    def join(answers: Sequence[Answer]) -> Predictions:
        classes = tuple(_fact(answers[0], "classes"))
        labels = [label for answer in answers for label in _fact(answer, "labels")]
        return Predictions(classes, _join(answers, "probabilities"), labels)

    def blank(model: Model) -> Answer:
        (spec,) = (p for p in model.config["probes"] if (p["task"], p["kind"]) == (task, kind))
        row = _nan(len(spec["classes"]))
        label: Any = [] if spec["activation"] == "sigmoid" else ""
        return Answer({"probabilities": row}, {"classes": spec["classes"], "labels": label})

    return Call("probe", {"model": model, "task": task, "kind": kind}, join, blank)


def search(
    model: str,
    k: int,
    *,
    metric: Metric | Distance,
    max_uncertainty: float | None,
    abstain: float | None,
) -> Call[Neighbours]:
    """Return the call for ids, distances and uncertainties."""

    def join(answers: Sequence[Answer]) -> Neighbours:
        ids = [list(found) for answer in answers for found in _fact(answer, "ids")]
        widest = max(answer["distances"].shape[1] for answer in answers)
        distances = np.full((len(ids), widest), np.nan, np.float32)
        first = 0
        for answer in answers:
            rows, columns = answer["distances"].shape
            distances[first : first + rows, :columns] = answer["distances"]
            first += rows
        if first != len(ids):
            raise UnexpectedAnswer(f"expected ids of {first} images, got those of {len(ids)}")
        abstained = [flag for answer in answers for flag in _fact(answer, "abstained")]
        return Neighbours(ids, distances, _calibrated(answers), np.array(abstained, bool))

    def blank(model: Model) -> Answer:
        rows = {"distances": _nan(1)}
        if model.config.get("uncertainty"):
            rows["uncertainty"] = _nan()
        return Answer(rows, {"ids": [], "abstained": False})

    options: dict[str, Any] = {"model": model, "k": operator.index(k), "metric": metric}
    limits = {"max_uncertainty": max_uncertainty, "abstain": abstain}
    options |= {name: float(value) for name, value in limits.items() if value is not None}
    return Call("search", options, join, blank, ("ids", "abstained"))


def model_path(name: str) -> str:
    """Return the path of a model's description.

    Raises:
        ValueError: If ``name`` cannot be the name of a model.
    """
    if not isinstance(name, str) or not name.strip("."):  # ".." would lead to another path
        raise ValueError(f"model is {name!r}: expected the name of a model")
    return f"models/{quote(name, safe='')}"


def read_models(answer: Answer) -> list[Model]:
    """Read the answer of ``/models``."""
    return [read_model(entry) for entry in _fact(answer, "models")]


def read_model(entry: Any) -> Model:
    """Read one model's description."""
    try:
        return Model(
            name=entry["name"],
            revision=entry["revision"],
            provider=entry["provider"],
            capabilities=tuple(entry["capabilities"]),
            limits=entry["limits"],
            config=entry["config"],
        )
    except (KeyError, TypeError) as error:
        raise UnexpectedAnswer(f"the answer is not the description of a model: {error!r}") from None


def _embed(
    model: str, normalize: bool, robust: bool, join: Callable[[Sequence[Answer]], T]
) -> Call[T]:
    options = {"model": model, "normalize": bool(normalize)}
    if robust:  # servers before version 0.2 refuse options that they do not know
        options["robust"] = True
    return Call("embed", options, join, _blank_embedding)


def _blank_embedding(model: Model) -> Answer:
    rows = {"embeddings": _nan(model.config["latent_dim"])}
    if model.config.get("uncertainty"):
        rows["uncertainty"] = _nan()
    return Answer(rows, {})


def _nan(*shape: int) -> NDArray[Any]:
    return np.full(shape, np.nan, np.float32)


def _calibrated(answers: Sequence[Answer]) -> NDArray[np.float32] | None:
    """Return the float32 ``[N]`` of all answers, or None if the model has no uncertainty."""
    return _optional(answers, "uncertainty")


def _optional(answers: Sequence[Answer], name: str) -> NDArray[Any] | None:
    return _join(answers, name) if name in answers[0].tensors else None


def _join(answers: Sequence[Answer], name: str) -> NDArray[Any]:
    return np.concatenate([answer[name] for answer in answers])


def _fact(answer: Answer, name: str) -> Any:
    try:
        return answer.facts[name]
    except (KeyError, TypeError):
        raise UnexpectedAnswer(f"the answer lacks {name!r}") from None
