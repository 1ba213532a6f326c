"""A recipe: everything that decides a training run except the images and where it runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from repzoo_training.errors import RecipeError
from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import LikelihoodSpec, Options
from repzoo_training.views.views import ViewSpec

__all__ = ["OptimizerName", "Recipe", "Schedule", "override"]

OptimizerName: TypeAlias = Literal["adamw", "sgd", "lars"]

#: What follows the warm-up: half a cosine to zero, or a constant learning rate.
Schedule: TypeAlias = Literal["cosine", "constant"]


class Recipe(BaseModel):
    """See ``zoo train --list`` for those that ship, and their modules for what they reach.

    ``views`` counts all views of the whole run; the learning rate warms up linearly over the first
    ``warmup`` of them and then follows ``schedule``: half a cosine to zero, or no change.
    ``precision`` ``auto`` takes bfloat16 autocast where it is measured to be faster on the device,
    once, at the start of a run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str = ""
    method: str
    options: Options = Field(default={}, description="of the method's objective")
    likelihood: LikelihoodSpec | None = Field(
        default=None, description="of a generative method's decoder"
    )
    network: NetworkSpec
    latent_dim: int = Field(gt=0)
    input: tuple[int, int, Literal[1, 3]] = Field(description="(height, width, channels)")
    augmentation: ViewSpec
    views_per_image: int = Field(gt=0, description="J")
    images_per_step: int = Field(gt=0, description="B, of all processes and micro-batches")
    accumulate: int = Field(
        default=1,
        gt=0,
        description="equal micro-batches that a step's images are cut into, to need less memory; "
        "what a loss or batch normalisation compares is then one of them",
    )
    views: int = Field(gt=0)
    optimizer: OptimizerName = "adamw"
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD and LARS")
    nesterov: bool = Field(default=False, description="momentum of SGD as Nesterov's")
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.03, ge=0, le=1)
    schedule: Schedule = "cosine"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(default=0, ge=0)
    paper: str | None = None
    licence: str = Field(
        default="other", description="of the weights, as an SPDX id where it has one"
    )
    share_images: bool = Field(
        default=False, description="whether images of the data set may be part of a package"
    )
    notes: tuple[str, ...] = Field(
        default=(), description="sentences that a card must have beside its numbers"
    )

    @field_validator("nesterov")
    @classmethod
    def _needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        optimizer, momentum = info.data.get("optimizer", "sgd"), info.data.get("momentum")
        if nesterov and (optimizer != "sgd" or momentum == 0):
            raise ValueError(
                f"Nesterov's is a momentum of SGD, but the optimizer is {optimizer} with momentum "
                f"{momentum}: set optimizer=sgd and momentum above 0, or nesterov=false"
            )
        return nesterov

    @property
    def views_per_step(self) -> int:
        return self.images_per_step * self.views_per_image

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, at least one."""
        return max(1, self.views // self.views_per_step)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``, torch's order."""
        height, width, channels = self.input
        return channels, height, width


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """A copy with ``key=value`` settings applied; ``augmentation.scale=[0.5,1]`` reaches inside.

    Values are JSON where they parse as JSON, and text otherwise.

    Raises:
        RecipeError: for a setting without ``=``, an unknown key, or a value of the wrong type.
    """
    record: dict[str, Any] = recipe.model_dump()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"{setting!r} is not KEY=VALUE")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *parents, last = key.split(".")
        place = record
        for parent in parents:
            inner = place.get(parent)
            if not isinstance(inner, dict):
                raise RecipeError(f"{key!r}: the recipe has no group {parent!r}")
            place = inner
        place[last] = value
    try:
        return Recipe.model_validate(record)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"recipe {recipe.name}: {problems}") from None
