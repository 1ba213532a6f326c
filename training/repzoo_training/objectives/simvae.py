"""SimVAE: a generative model of self-supervised learning.

Bizeul, Schölkopf, Allen 2024, "A Probabilistic Model behind Self-Supervised Learning"
(arXiv 2402.01399). The J views x_1..x_J of an image share a latent content ψ:

    p(x_1..x_J | y) = ∫ ∏_j p(x_j|z_j) p(z_1..z_J | y) dz,     z_j | ψ ~ N(ψ, s² I)

With q(z|x) = N(μ, diag σ²), the negative evidence lower bound is the loss of one image, in nats:

    loss = Σ_j [ −log p(x_j|z_j) − H(q(z_j|x_j)) ] − E_q log p(z_1..z_J | y)

Every function below the class is a term of this equation.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from repzoo_training.objectives.likelihoods import Likelihood
from repzoo_training.objectives.objective import Batch, Objective, Parts, Terms
from repzoo_training.objectives.posterior import entropy, gaussian_log_prob, sample

__all__ = [
    "ContentPrior",
    "SimVAE",
    "expected_joint_log_prior",
    "expected_scatter",
    "joint_log_prior",
]

#: The prior of the content ψ: an improper uniform prior on R^D, or N(0, I).
ContentPrior = Literal["uniform", "normal"]


class SimVAE(Objective):
    """The negative ELBO of log p(x_1..x_J | y) per view, averaged over the batch.

    Args:
        encoder: Images ``[N, C, H, W]`` -> (mean ``[N, D]``, log_variance ``[N, D]``), float32.
        decoder: Latents ``[N, D]`` -> logits ``[N, C, H, W]``.
        likelihood: p(x|z).
        scatter: s², the variance of views around their content.
        prior: The prior of the content ψ.
        terms: ``closed_form`` computes E_q of the prior and the entropy exactly. ``sampled``
            estimates both at the decoded z, with more noise and the same expectation.

    Raises:
        ValueError: If ``scatter`` is not positive, or ``prior`` or ``terms`` is unknown.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        *,
        scatter: float = 0.15,
        prior: ContentPrior = "uniform",
        terms: Terms = "closed_form",
    ) -> None:
        super().__init__(encoder)
        self.decoder: nn.Module = decoder
        if not scatter > 0:
            raise ValueError(f"scatter (s²) must be positive, got {scatter}")
        if prior not in get_args(ContentPrior):
            raise ValueError(f"prior must be uniform or normal, got {prior!r}")
        if terms not in get_args(Terms):
            raise ValueError(f"terms must be closed_form or sampled, got {terms!r}")
        self.likelihood = likelihood
        self.scatter = scatter
        self.prior: ContentPrior = prior
        self.terms = terms

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        scatter: float = 0.15,
        prior: ContentPrior = "uniform",
        terms: Terms = "closed_form",
    ) -> SimVAE:
        return cls(*parts.generative(), scatter=scatter, prior=prior, terms=terms)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms, in nats per view.

        Raises:
            ValueError: If there is one view per image and the prior is uniform. Nothing is left of
                the uniform prior in that case.
        """
        B, J = batch.views.shape[:2]  # noqa: N806
        if J == 1 and self.prior == "uniform":
            raise ValueError(
                "the uniform content prior needs at least 2 views per image, got 1: set "
                "views_per_image to 2 or more, or options.prior=normal"
            )
        x = batch.views.flatten(0, 1)  # [B*J, C, H, W]
        mean, log_variance = self.encoder(x)  # [B*J, D] twice
        z = sample(mean, log_variance, batch.generator)  # [B*J, D]
        log_likelihood = self.likelihood.log_prob(x, self.decoder(z))  # [B*J]
        if self.terms == "closed_form":
            h = entropy(log_variance)  # [B*J]
            log_prior = expected_joint_log_prior(
                mean.unflatten(0, (B, J)),
                log_variance.exp().unflatten(0, (B, J)),
                self.scatter,
                self.prior,
            )  # [B]
        else:
            h = -gaussian_log_prob(z, mean, log_variance)  # [B*J]
            log_prior = joint_log_prior(z.unflatten(0, (B, J)), self.scatter, self.prior)  # [B]
        terms = {
            "log_likelihood": log_likelihood.mean(),
            "entropy": h.mean(),
            "log_prior": log_prior.mean() / J,
        }
        return {"loss": -sum(terms.values(), start=torch.zeros_like(h[0])), **terms}


def joint_log_prior(z: Tensor, scatter: float, prior: ContentPrior) -> Tensor:
    """Return log p(z_1..z_J | y), with the content ψ integrated out: ``[B, J, D]`` -> ``[B]``.

    With S = Σ_j ‖z_j − z̄‖²:

        ψ uniform:   −S/(2s²) − (D/2) [ (J−1) log 2πs² + log J ]
        ψ ~ N(0,I):  the same  + log N(z̄; 0, (1 + s²/J) I)
    """
    J, D = z.shape[1:]  # noqa: N806
    center = z.mean(1)  # [B, D]
    S = (z - center[:, None]).square().sum((1, 2))  # noqa: N806  [B]
    log_prior = _scatter_log_prior(S, J, D, scatter)
    if prior == "normal":
        log_prior = log_prior + _content_log_prior(center.square().sum(1), J, D, scatter)
    return log_prior


def expected_joint_log_prior(
    mean: Tensor, variance: Tensor, scatter: float, prior: ContentPrior
) -> Tensor:
    """Return E_q log p(z_1..z_J | y) for z_j ~ N(mean_j, diag variance_j).

    Uses E_q S (see :func:`expected_scatter`) and E_q ‖z̄‖² = ‖μ̄‖² + (1/J²) Σ_j Σ_d σ_jd², which
    holds because the noise of the views is independent.

    Args:
        mean: ``[B, J, D]``.
        variance: ``[B, J, D]``.
        scatter: s².
        prior: The prior of the content ψ.

    Returns:
        ``[B]``, in nats.
    """
    J, D = mean.shape[1:]  # noqa: N806
    log_prior = _scatter_log_prior(expected_scatter(mean, variance), J, D, scatter)
    if prior == "normal":
        norm2 = mean.mean(1).square().sum(1) + variance.sum((1, 2)) / J**2  # [B]
        log_prior = log_prior + _content_log_prior(norm2, J, D, scatter)
    return log_prior


def expected_scatter(mean: Tensor, variance: Tensor) -> Tensor:
    """Return E_q S = Σ_j ‖μ_j − μ̄‖² + (1 − 1/J) Σ_j Σ_d σ_jd²: ``[B, J, D]`` twice -> ``[B]``."""
    J = mean.shape[1]  # noqa: N806
    spread = (mean - mean.mean(1, keepdim=True)).square().sum((1, 2))  # [B]
    return spread + (1 - 1 / J) * variance.sum((1, 2))  # [B]


def _scatter_log_prior(S: Tensor, J: int, D: int, scatter: float) -> Tensor:  # noqa: N803
    """Return log ∫ ∏_j N(z_j; ψ, s² I) dψ: improper, because it does not depend on z̄."""
    return -S / (2 * scatter) - D / 2 * ((J - 1) * math.log(2 * math.pi * scatter) + math.log(J))


def _content_log_prior(norm2: Tensor, J: int, D: int, scatter: float) -> Tensor:  # noqa: N803
    """Return log N(z̄; 0, (1 + s²/J) I) from ‖z̄‖²: the content plus a mean of J deviations."""
    variance = 1 + scatter / J
    return -0.5 * (norm2 / variance + D * math.log(2 * math.pi * variance))
