"""A recipe: all settings of a training run, except the images and the hardware."""

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
from repzoo.packages.config import NAME_PATTERN

from repzoo_training.errors import RecipeError, problems
from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import LikelihoodSpec, Options
from repzoo_training.recipes.keys import keys, require_key
from repzoo_training.views.views import ViewSpec

__all__ = ["OptimizerName", "Recipe", "Schedule", "override"]

OptimizerName: TypeAlias = Literal["adamw", "sgd", "lars"]

#: The learning rate after the warm-up: half a cosine to zero, or constant.
Schedule: TypeAlias = Literal["cosine", "constant"]


class Recipe(BaseModel):
    """The settings of a training run; see ``zoo train --list`` for the built-in recipes.

    ``views`` counts all views of the whole run. The learning rate warms up linearly over the
    fraction ``warmup`` of the run, and then follows ``schedule``: half a cosine to zero, or
    constant. With ``precision`` ``auto``, bfloat16 autocast is used if it is measured to be faster
    on the device when a run starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME_PATTERN, description="name of the recipe")
    summary: str = Field(default="", description="what it trains, in one line")
    method: str = Field(description="name of the method, whose objective is trained")
    options: Options = Field(default={}, description="options of the method's objective")
    likelihood: LikelihoodSpec | None = Field(
        default=None, description="decoder likelihood of a generative method"
    )
    network: NetworkSpec = Field(description="encoder, and decoder of a generative method")
    latent_dim: int = Field(gt=0, description="D, the number of dimensions of an embedding")
    input: tuple[int, int, Literal[1, 3]] = Field(description="(height, width, channels)")
    augmentation: ViewSpec = Field(description="random changes that make a view of an image")
    views_per_image: int = Field(gt=0, description="J, the number of views of each image")
    group_by: str | None = Field(
        default=None,
        description="folder, or a column of parquet files: images of one group are views of one "
        "thing, such as photos of one product",
    )
    images_per_step: int = Field(
        gt=0, description="B, the number of images, over all processes and micro-batches"
    )
    accumulate: int = Field(
        default=1,
        gt=0,
        description="number of equal micro-batches per step, to save memory; losses and batch "
        "normalisation compare the images of one micro-batch only",
    )
    views: int = Field(gt=0, description="number of views of the whole run")
    optimizer: OptimizerName = Field(default="adamw", description="adamw, sgd or lars")
    learning_rate: float = Field(gt=0, description="learning rate after the warm-up")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD and LARS")
    nesterov: bool = Field(default=False, description="whether SGD uses Nesterov momentum")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    warmup: float = Field(
        default=0.03, ge=0, le=1, description="fraction of the run with a rising learning rate"
    )
    schedule: Schedule = Field(
        default="cosine", description="learning rate after the warm-up: cosine or constant"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto, float32 or bfloat16; auto measures which is faster"
    )
    seed: int = Field(default=0, ge=0, description="seed of all randomness")
    paper: str | None = Field(default=None, description="paper that introduced the method")
    licence: str = Field(
        default="other", description="licence of the weights, as an SPDX id if it has one"
    )
    share_images: bool = Field(
        default=False, description="whether packages may contain images of the data set"
    )
    notes: tuple[str, ...] = Field(
        default=(), description="sentences that must accompany the measurements on a card"
    )

    @field_validator("augmentation")
    @classmethod
    def _colour_needs_rgb(cls, augmentation: ViewSpec, info: ValidationInfo) -> ViewSpec:
        channels = info.data.get("input", (0, 0, 3))[2]
        if channels != 3 and (augmentation.jitter is not None or augmentation.greyscale):
            raise ValueError(
                "jitter and greyscale need colour images, but input has 1 channel: set "
                "augmentation.jitter=null and augmentation.greyscale=0"
            )
        return augmentation

    @field_validator("nesterov")
    @classmethod
    def _needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        optimizer, momentum = info.data.get("optimizer", "sgd"), info.data.get("momentum")
        if nesterov and (optimizer != "sgd" or momentum == 0):
            raise ValueError(
                f"nesterov needs SGD with momentum, but optimizer is {optimizer} with momentum "
                f"{momentum}: set optimizer=sgd and momentum above 0, or nesterov=false"
            )
        return nesterov

    @property
    def views_per_step(self) -> int:
        return self.images_per_step * self.views_per_image

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run, at least one."""
        return max(1, self.views // self.views_per_step)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``, in torch's order."""
        height, width, channels = self.input
        return channels, height, width


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return a copy with ``key=value`` settings applied; ``augmentation.scale=[0.5,1]`` is nested.

    Values are parsed as JSON if possible, and are text otherwise.

    Raises:
        RecipeError: If a setting has no ``=``, its key does not exist, or its value is not valid.
            The message names the nearest key.
    """
    record: dict[str, Any] = recipe.model_dump()
    settings = list(settings)
    method = next((text[7:] for text in reversed(settings) if text.startswith("method=")), "")
    try:
        known = {key.name for key in keys(recipe, method or recipe.method)}
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: {error}") from None
    known |= {name.partition(".")[0] for name in known} | {"options"}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"{setting!r} is not a setting: write KEY=VALUE")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *parents, last = key.split(".")
        if _complete(record, parents) and (message := require_key(key, sorted(known))):
            raise RecipeError(f"recipe {recipe.name}: {message}")
        place = record
        for parent in parents:
            inner = place.get(parent)
            if not isinstance(inner, dict):
                raise RecipeError(f"{key!r}: the recipe has no section {parent!r}")
            place = inner
        place[last] = value
    try:
        return Recipe.model_validate(record)
    except ValidationError as error:
        raise RecipeError(f"recipe {recipe.name}: {problems(error)}") from None


def _complete(record: dict[str, Any], parents: list[str]) -> bool:
    """Return whether the section exists and all of its keys are known."""
    known = parents != ["network", "options"]  # a network of the user may have any options
    return known and (not parents or record.get(parents[0]) is not None)
