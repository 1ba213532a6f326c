"""VAE and β-VAE.

Kingma, Welling 2014 (arXiv 1312.6114), and Higgins et al. 2017, "beta-VAE". The loss of one view,
in nats:

    loss = −E_q log p(x|z) + β KL(q(z|x) ‖ N(0, I))

β = 1 is the VAE, whose loss is the negative ELBO of log p(x).
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from repzoo_training.objectives.likelihoods import Likelihood
from repzoo_training.objectives.objective import Batch, Objective, Parts, Terms
from repzoo_training.objectives.posterior import gaussian_log_prob, kl_to_standard_normal, sample

__all__ = ["VAE"]


class VAE(Objective):
    """The negative (β-weighted) ELBO of each view, averaged.

    Args:
        encoder: Images ``[N, C, H, W]`` -> (mean ``[N, D]``, log_variance ``[N, D]``), float32.
        decoder: Latents ``[N, D]`` -> logits ``[N, C, H, W]``.
        likelihood: p(x|z).
        beta: The weight of the KL term.
        terms: ``closed_form`` computes the KL exactly; ``sampled`` estimates it at the decoded z.

    Raises:
        ValueError: If ``beta`` is negative, or ``terms`` is unknown.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        *,
        beta: float = 1.0,
        terms: Terms = "closed_form",
    ) -> None:
        super().__init__(encoder)
        self.decoder: nn.Module = decoder
        if beta < 0:
            raise ValueError(f"beta must not be negative, got {beta}")
        if terms not in get_args(Terms):
            raise ValueError(f"terms must be closed_form or sampled, got {terms!r}")
        self.likelihood = likelihood
        self.beta = beta
        self.terms = terms

    @classmethod
    def build(cls, parts: Parts, *, terms: Terms = "closed_form") -> VAE:
        """Build the VAE, with β = 1."""
        return cls(*parts.generative(), terms=terms)

    @classmethod
    def build_beta(cls, parts: Parts, *, beta: float = 4.0, terms: Terms = "closed_form") -> VAE:
        """Build the β-VAE; β = 4 is the first value that Higgins et al. show."""
        return cls(*parts.generative(), beta=beta, terms=terms)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms, in nats per view."""
        x = batch.views.flatten(0, 1)  # [B*J, C, H, W]
        mean, log_variance = self.encoder(x)  # [B*J, D] twice
        z = sample(mean, log_variance, batch.generator)  # [B*J, D]
        log_likelihood = self.likelihood.log_prob(x, self.decoder(z)).mean()
        if self.terms == "closed_form":
            kl = kl_to_standard_normal(mean, log_variance).mean()
        else:
            zeros = torch.zeros_like(mean)  # [B*J, D]
            log_q = gaussian_log_prob(z, mean, log_variance)  # [B*J]
            kl = (log_q - gaussian_log_prob(z, zeros, zeros)).mean()
        return {
            "loss": self.beta * kl - log_likelihood,
            "log_likelihood": log_likelihood,
            "kl": kl,
        }
