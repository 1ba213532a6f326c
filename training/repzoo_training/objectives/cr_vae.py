"""CR-VAE: a VAE with similar posteriors for an image and its augmentation.

Sinha, Dieng 2021, "Consistency Regularization for VAEs" (arXiv 2105.14859). With x an image, x̃ its
augmentation, and the ELBO of a VAE:

    loss(x, x̃) = −ELBO(x) − ELBO(x̃) + λ KL(q(z|x̃) ‖ q(z|x))

In the paper, x is the original image. Here, every view is augmented, and each one can take the role
of x: the loss of an image is the mean of loss(x_i, x_j) over all ordered pairs of its J views, i ≠
j. For J = 2, this is the paper's loss with x and x̃ in both orders. All views have the same
distribution, so the expectation does not change, and the variance is smaller. The loss is halved,
so that it is in nats per view, like the other objectives:

    loss = −mean_j ELBO(x_j) + λ/2 · mean_{i≠j} KL(q(z|x_j) ‖ q(z|x_i))
"""

from __future__ import annotations

from torch import Tensor, nn

from repzoo_training.objectives.likelihoods import Likelihood
from repzoo_training.objectives.objective import Batch, Objective, Parts
from repzoo_training.objectives.posterior import kl, kl_to_standard_normal, sample

__all__ = ["CRVAE", "inconsistency"]


class CRVAE(Objective):
    """The negative ELBO of every view, plus the divergence between the posteriors of its image.

    Args:
        encoder: Images ``[N, C, H, W]`` -> (mean ``[N, D]``, log_variance ``[N, D]``), float32.
        decoder: Latents ``[N, D]`` -> logits ``[N, C, H, W]``.
        likelihood: p(x|z).
        consistency: λ, the weight of the KL term between the views.

    Raises:
        ValueError: If ``consistency`` is negative.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        *,
        consistency: float = 1e-3,
    ) -> None:
        super().__init__(encoder)
        self.decoder: nn.Module = decoder
        if consistency < 0:
            raise ValueError(f"consistency (λ) must not be negative, got {consistency}")
        self.likelihood = likelihood
        self.consistency = consistency

    @classmethod
    def build(cls, parts: Parts, *, consistency: float = 1e-3) -> CRVAE:
        return cls(*parts.generative(), consistency=consistency)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms, in nats per view; ``inconsistency`` is unweighted.

        Raises:
            ValueError: If there is only one view per image.
        """
        B, J = batch.several_views("CR-VAE")  # noqa: N806
        x = batch.views.flatten(0, 1)  # [B*J, C, H, W]
        mean, log_variance = self.encoder(x)  # [B*J, D] twice
        z = sample(mean, log_variance, batch.generator)  # [B*J, D]
        log_likelihood = self.likelihood.log_prob(x, self.decoder(z)).mean()
        prior = kl_to_standard_normal(mean, log_variance).mean()
        apart = inconsistency(mean.unflatten(0, (B, J)), log_variance.unflatten(0, (B, J))).mean()
        return {
            "loss": prior - log_likelihood + self.consistency / 2 * apart,
            "log_likelihood": log_likelihood,
            "kl": prior,
            "inconsistency": apart,
        }


def inconsistency(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return mean_{i≠j} KL(q(z|x_j) ‖ q(z|x_i)): ``[B, J, D]`` twice, J ≥ 2 -> ``[B]``."""
    J = mean.shape[1]  # noqa: N806
    pairs = kl(
        mean[:, :, None], log_variance[:, :, None], mean[:, None], log_variance[:, None]
    )  # [B, J, J], 0 for a view and itself
    return pairs.sum((1, 2)) / (J * (J - 1))  # [B]
