"""What a package says about itself: its ``config.json``, ``metrics.json`` and recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from repzoo.errors import PackageError
from repzoo.packages.config import ModelConfig

from repzoo_training.content.report import ContentReport
from repzoo_training.errors import RecipeError
from repzoo_training.evaluation.report import EvaluationReport
from repzoo_training.objectives import METHODS
from repzoo_training.probing.report import ProbeReport
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.uncertainty.report import UncertaintyReport
from repzoo_training.uncertainty.searches import ViewsReport

__all__ = ["AddedDecoder", "Contents", "Embeddings", "TrainingRecord", "title_of"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Embeddings(_Record):
    """Collapse statistics of the embeddings at the end of training."""

    rankme: float
    effective_rank: float
    correlation: float
    std_mean: float
    std_min: float
    collapsed: bool


class AddedDecoder(_Record):
    """How a decoder was trained on the frozen encoder."""

    steps: int
    batch: int


class TrainingRecord(_Record):
    """The part of ``metrics.json`` that describes the training beyond ``config.json``."""

    recipe: Recipe
    embeddings: Embeddings | None = None
    added_decoder: AddedDecoder | None = None
    started_from: str | None = None
    extended_at: tuple[int, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a package says about itself."""

    folder: Path
    config: ModelConfig
    evaluation: EvaluationReport | None
    uncertainty: UncertaintyReport | None
    content: ContentReport | None
    probes: tuple[ProbeReport, ...]
    parity: dict[str, Any] | None
    training: TrainingRecord | None

    @classmethod
    def read(cls, folder: Path) -> Contents:
        path = folder / "metrics.json"
        metrics = json.loads(path.read_bytes()) if path.exists() else {}

        def of(name: str, kind: Any) -> Any:
            return kind.model_validate(metrics[name]) if metrics.get(name) else None

        has_searches = "searches" in (metrics.get("uncertainty") or {})
        return cls(
            folder,
            ModelConfig.read(folder / "config.json"),
            of("evaluation", EvaluationReport),
            of("uncertainty", ViewsReport if has_searches else UncertaintyReport),
            of("content", ContentReport),
            tuple(map(ProbeReport.model_validate, metrics.get("probes") or ())),
            metrics.get("onnx_against_torch"),
            of("training", TrainingRecord),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the recipe requires on the card."""
        if self.training is not None:
            return self.training.recipe.notes
        try:  # a package of an older version, or an imported one
            return find_recipe(self.config.facts.recipe).notes
        except (PackageError, RecipeError):
            return ()


def title_of(config: ModelConfig) -> str:
    return METHODS[config.method].title if config.method in METHODS else config.method
