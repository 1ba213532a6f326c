"""The registry of objectives: what ``method`` and ``likelihood`` in a recipe refer to."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field
from repzoo.packages.config import NAME_PATTERN

from repzoo_training.objectives.barlow_twins import BarlowTwins
from repzoo_training.objectives.byol import BYOL
from repzoo_training.objectives.cr_vae import CRVAE
from repzoo_training.objectives.deepcluster import DeepCluster
from repzoo_training.objectives.dino import DINO
from repzoo_training.objectives.instance_discrimination import InstanceDiscrimination
from repzoo_training.objectives.likelihoods import (
    Bernoulli,
    Gaussian,
    Likelihood,
    OptimalGaussian,
)
from repzoo_training.objectives.minc import MINC
from repzoo_training.objectives.moco import MoCo
from repzoo_training.objectives.objective import Batch, Objective, Parts
from repzoo_training.objectives.random import Random
from repzoo_training.objectives.simclr import SimCLR
from repzoo_training.objectives.simvae import SimVAE
from repzoo_training.objectives.spectral import Spectral
from repzoo_training.objectives.vae import VAE
from repzoo_training.objectives.vicreg import VICReg
from repzoo_training.objectives.w_mse import WMSE

__all__ = [
    "METHODS",
    "Batch",
    "Family",
    "LikelihoodSpec",
    "Method",
    "Objective",
    "Options",
    "Parts",
    "build",
    "find_method",
    "register",
]

Family: TypeAlias = Literal[
    "generative",
    "contrastive",
    "self-distillation",
    "information maximisation",
    "predictive",
    "clustering",
    "lower bound",
]

#: The settings of a method, as written in a recipe.
Options: TypeAlias = dict[str, bool | int | float | str]


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        title: The name used in the literature.
        family: The kind of method. Only ``generative`` methods have a posterior and a decoder.
        paper: The paper that introduced the method.
        build: ``build(parts, **options)`` builds the objective.
    """

    title: str
    family: Family
    paper: str | None
    build: Callable[..., Objective]

    @property
    def generative(self) -> bool:
        return self.family == "generative"

    @property
    def metric(self) -> Literal["cosine", "euclidean"]:
        """The distance for comparing embeddings.

        Posterior means live in the space of their prior, where lengths have a meaning.
        Discriminative encoders are compared by angle, as is customary.
        """
        return "euclidean" if self.family in ("generative", "lower bound") else "cosine"


METHODS: dict[str, Method] = {
    "simvae": Method("SimVAE", "generative", "arXiv:2402.01399", SimVAE.build),
    "vae": Method("VAE", "generative", "arXiv:1312.6114", VAE.build),
    "beta-vae": Method("β-VAE", "generative", "openreview:Sy2fzU9gl", VAE.build_beta),
    "cr-vae": Method("CR-VAE", "generative", "arXiv:2105.14859", CRVAE.build),
    "simclr": Method("SimCLR", "contrastive", "arXiv:2002.05709", SimCLR.build),
    "moco": Method("MoCo", "contrastive", "arXiv:1911.05722", MoCo.build),
    "spectral": Method("Spectral contrastive", "contrastive", "arXiv:2106.04156", Spectral.build),
    "minc": Method("MINC", "contrastive", "arXiv:2504.16667", MINC.build),
    "instance-discrimination": Method(
        "Instance discrimination", "predictive", "arXiv:1805.01978", InstanceDiscrimination.build
    ),
    "byol": Method("BYOL", "self-distillation", "arXiv:2006.07733", BYOL.build),
    "linear-byol": Method(
        "Linear BYOL", "self-distillation", "arXiv:2102.06810", BYOL.build_linear
    ),
    "barlow-twins": Method(
        "Barlow Twins", "information maximisation", "arXiv:2103.03230", BarlowTwins.build
    ),
    "vicreg": Method("VICReg", "information maximisation", "arXiv:2105.04906", VICReg.build),
    "w-mse": Method("W-MSE", "information maximisation", "arXiv:2007.06346", WMSE.build),
    "deepcluster": Method("DeepCluster", "clustering", "arXiv:1807.05520", DeepCluster.build),
    "dino": Method("DINO", "self-distillation", "arXiv:2104.14294", DINO.build),
    "random": Method("Random", "lower bound", None, Random.build),
}


class LikelihoodSpec(BaseModel):
    """A decoder likelihood by name; see :mod:`repzoo_training.objectives.likelihoods`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bernoulli", "gaussian", "optimal-gaussian"] = Field(
        default="bernoulli", description="bernoulli, gaussian or optimal-gaussian"
    )
    weight: float = Field(default=1.0, gt=0, description="w of a Bernoulli (pseudo-)likelihood")
    log_variance: float = Field(default=-4.6, description="log σ_x² of a fixed Gaussian")
    whitening: float = Field(
        default=0.0, ge=0, description="α of a fixed Gaussian: the weight of high frequencies"
    )

    @property
    def family(self) -> Literal["bernoulli", "gaussian"]:
        return "bernoulli" if self.kind == "bernoulli" else "gaussian"

    def build(self) -> Likelihood:
        if self.kind == "bernoulli":
            return Bernoulli(self.weight)
        if self.kind == "gaussian":
            return Gaussian(self.log_variance, self.whitening)
        return OptimalGaussian()


def register(name: str, method: Method) -> None:
    """Add a method of your own, so that recipes can name it.

    Args:
        name: Lower case letters, digits and hyphens.
        method: The method. Every option needs a default.

    Raises:
        ValueError: If the name is taken or not valid, or the family does not exist.
    """
    if name in METHODS:
        raise ValueError(f"the method {name!r} exists already: choose another name")
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ValueError(f"the name of a method must match {NAME_PATTERN}, got {name!r}")
    if method.family not in get_args(Family):
        raise ValueError(
            f"family must be one of {', '.join(get_args(Family))}; got {method.family!r}"
        )
    METHODS[name] = method


def find_method(name: str) -> Method:
    """Return the method called ``name``.

    Raises:
        ValueError: If the method does not exist.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: choose from {', '.join(sorted(METHODS))}")
    return METHODS[name]


def build(method: str, options: Options, parts: Parts) -> Objective:
    """Build the objective of ``method`` with its ``options`` (``scatter``, ``temperature``, ...).

    Raises:
        ValueError: If the method does not exist or does not have one of the options.
    """
    make = find_method(method).build
    try:
        return make(parts, **options)
    except TypeError as error:
        raise ValueError(f"method {method!r}: {error}") from None
