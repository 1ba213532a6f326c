"""Objectives, registered once: what a recipe's ``method`` and ``likelihood`` name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from repzoo_training.objectives.likelihoods import (
    Bernoulli,
    Gaussian,
    Likelihood,
    OptimalGaussian,
)
from repzoo_training.objectives.objective import Objective
from repzoo_training.objectives.simvae import SimVAE
from repzoo_training.objectives.vae import VAE

__all__ = ["METHODS", "LikelihoodSpec", "Objective", "build"]


METHODS: Mapping[str, Callable[..., Objective]] = {"simvae": SimVAE, "vae": VAE, "beta-vae": VAE}


class LikelihoodSpec(BaseModel):
    """A decoder likelihood by name; see :mod:`repzoo_training.objectives.likelihoods`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bernoulli", "gaussian", "optimal-gaussian"] = "bernoulli"
    weight: float = Field(default=1.0, gt=0, description="of a Bernoulli (pseudo-)likelihood")
    log_variance: float = Field(default=-4.6, description="log σ_x² of a fixed Gaussian")

    @property
    def family(self) -> Literal["bernoulli", "gaussian"]:
        return "bernoulli" if self.kind == "bernoulli" else "gaussian"

    def build(self) -> Likelihood:
        if self.kind == "bernoulli":
            return Bernoulli(self.weight)
        return Gaussian(self.log_variance) if self.kind == "gaussian" else OptimalGaussian()


def build(
    method: str,
    options: Mapping[str, float | str],
    encoder: nn.Module,
    decoder: nn.Module,
    likelihood: Likelihood,
) -> Objective:
    """The objective ``method`` with its own ``options`` (``scatter``, ``prior``, ``beta``, ...).

    Raises:
        ValueError: for an unknown method, or an option that it does not take.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(sorted(METHODS))}")
    try:
        return METHODS[method](encoder, decoder, likelihood, **options)
    except TypeError as error:
        raise ValueError(f"method {method!r}: {error}") from None
