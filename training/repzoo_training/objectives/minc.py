"""MINC: the spectral contrastive loss without pairs, each view against a summary of all others.

Guo, Avila Pires, Khetarpal, Schuurmans, Dai 2025, "Representation Learning via Non-Contrastive
Mutual Information" (arXiv 2504.16667). With φ a projected view, φ⁺ another view of its image, sg
the stop-gradient and Σ = E[φφᵀ] over all views:

    loss = −2 φᵀ sg(φ⁺) + φᵀ sg(Σ) φ

averaged over all ordered pairs of different views (J = 2 symmetrises the two). With Σ that of the
batch itself and φ⁺ of the trained network, its gradient is half that of the spectral loss in which
all pairs repel, those of one image and of a view with itself too. What is gained is that Σ may be
a moving average, with a lower variance than a batch of pairs, and that φ⁺ may come from a target
network. With the triangle of the generalised Hebbian algorithm (Sanger 1989)

    loss = −2 φᵀ sg(φ⁺) + 2 φᵀ sg(tril(Σ) φ)

each component is pushed away from those before it alone, and the components come out as the
eigenfunctions themselves, in order, and not in any rotation. As a quadratic form φᵀ tril(Σ) φ
would see no triangle, only its symmetric part: it has to stand inside the stop-gradient.

What of this is ours: the text of the paper was not at hand when it was written. The loss is derived
from its abstract and from accounts of it, and the whole α-divergence family for α ≠ 2 is our own
derivation. For f(r) = 2 (r^α − αr + α − 1)/(α(α − 1)), which is (r − 1)² at α = 2,

    D_f(p(x, x⁺) ‖ p(x)p(x′)) = sup_r E_p[f′(r)] − E_p×p[r f′(r) − f(r)]

is attained by the density ratio r, for which t = φᵀφ′ stands. Without constants that is the loss

    −2/(α − 1) E_p[t^(α−1)] + 2/α E_p×p[t^α]

whose gradient is E_p[−2 t^(α−2) ∇t] + E_p×p[2 t^(α−1) ∇t]: that of the spectral loss with each pair
weighted by t^(α−2). Half of it, with w = |t|^(α−2) and Σ_x = E_x′[w φ′φ′ᵀ] for each x, is that of

    loss = −2 φᵀ sg(w φ⁺) + φᵀ sg(Σ_x) φ

t may be negative where a density ratio is not: powers continue as odd functions in the first term
and even ones in the second, as at α = 2. |t| is at least 0.1 in w, or weights for α < 2 had no
bound. Σ_x is no second moment of the data alone; it takes the pairs of the batch, so that neither
the moving average nor the triangle exists for α ≠ 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repzoo_training.distributed.gather import gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.momentum import MomentumCopy
from repzoo_training.objectives.objective import Batch, Objective, Parts
from repzoo_training.objectives.spectral import attraction

__all__ = ["MINC", "MomentAverage", "damping", "minc_alpha_loss"]

#: Least |t| in the weights |t|^(α−2).
_FLOOR = 0.1


class MINC(Objective):
    """−2 φᵀ sg(φ⁺) + φᵀ sg(Σ) φ and its variants.

    Args:
        encoder: images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> φ ``[N, P]``; thrown away after training.
        moment: the moving average of Σ, ``[P, P]``; None takes each batch's own.
        alpha: of the divergence; other values than 2 take neither ``moment`` nor ``triangle``.
        triangle: the generalised Hebbian algorithm.
        target_momentum: m of the target network that gives φ⁺; 0 takes φ itself and saves the
            target's forward pass.

    Raises:
        ValueError: if ``alpha`` is not positive, ``target_momentum`` is not in [0, 1), or α ≠ 2
            meets ``moment`` or ``triangle``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        moment: MomentAverage | None,
        *,
        alpha: float = 2.0,
        triangle: bool = False,
        target_momentum: float = 0.95,
    ) -> None:
        super().__init__(encoder)
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, not {alpha}")
        if alpha != 2 and (moment is not None or triangle):
            raise ValueError(
                f"alpha {alpha} weights each pair, so that there is no one Σ to average or to take "
                "the triangle of: set moment_momentum to 0 and triangle to false, or alpha to 2"
            )
        if not 0 <= target_momentum < 1:
            raise ValueError(f"target_momentum must be in [0, 1), not {target_momentum}")
        self.projector = projector
        self.moment = moment
        self.alpha = alpha
        self.triangle = triangle
        self.target_momentum = target_momentum
        self.target = (
            MomentumCopy(nn.Sequential(encoder, projector)) if target_momentum > 0 else None
        )

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        alpha: float = 2.0,
        triangle: bool = False,
        moment_momentum: float = 0.8,
        target_momentum: float = 0.95,
        projection_hidden: int = 512,
        projection_dim: int = 128,
    ) -> MINC:
        return cls(
            parts.encoder,
            ProjectionHead((parts.latent_dim, projection_hidden, projection_dim)),
            MomentAverage(projection_dim, moment_momentum) if moment_momentum != 0 else None,
            alpha=alpha,
            triangle=triangle,
            target_momentum=target_momentum,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, and for α = 2 its terms ``attraction`` and ``damping``.

        Raises:
            ValueError: for one view of each image.
        """
        B, J = batch.views.shape[:2]  # noqa: N806
        x = batch.views.flatten(0, 1)  # [B*J, C, H, W]
        z = self.projector(self.encoder(x))  # [B*J, P]
        positives = z.detach() if self.target is None else self.target(x)
        with torch.autocast(z.device.type, enabled=False):
            z = gather(z.float().unflatten(0, (B, J)))  # [B, J, P] of all processes
            positives = gather(positives.float().unflatten(0, (B, J)))
            if self.alpha != 2:
                return {"loss": minc_alpha_loss(z, positives, self.alpha)}
            moment = second_moment(z.detach())
            if self.moment is not None:
                moment = self.moment.update(moment)
            pull, push = attraction(z, positives), damping(z, moment, triangle=self.triangle)
            return {"loss": push - 2 * pull, "attraction": pull, "damping": push}

    def after_step(self, progress: float) -> None:
        if self.target is not None:
            online = nn.Sequential(self.encoder, self.projector)
            self.target.follow(online, self.target_momentum)


class MomentAverage(nn.Module):
    """The exponential moving average of Σ, the last batch's included, without a start at zero.

    S ← m S + (1 − m) Σ,  w ← m w + (1 − m),  average S/w: after the first batch it is that batch's.

    Args:
        dim: P.
        momentum: m.

    Raises:
        ValueError: if ``momentum`` is not in [0, 1).
    """

    total: Tensor
    weight: Tensor

    def __init__(self, dim: int, momentum: float = 0.8) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"the momentum of Σ must be in [0, 1), not {momentum}")
        self.momentum = momentum
        self.register_buffer("total", torch.zeros(dim, dim))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(self, moment: Tensor) -> Tensor:
        """Take ``[P, P]`` of a batch in; returns the average ``[P, P]``, a new tensor."""
        self.total.lerp_(moment.to(self.total), 1 - self.momentum)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.momentum)
        return self.total / self.weight


def second_moment(z: Tensor) -> Tensor:
    """Σ = E[φφᵀ] over images and views: ``[B, J, P]`` -> ``[P, P]``."""
    rows = z.flatten(0, 1)  # [B*J, P]
    return rows.mT @ rows / len(rows)


def damping(z: Tensor, moment: Tensor, *, triangle: bool) -> Tensor:
    """φᵀ sg(Σ) φ, or 2 φᵀ sg(tril(Σ) φ), the mean over views: ``[B, J, P]``, ``[P, P]`` -> scalar.

    Both have the value of ‖Σ‖²_F, or more, where Σ is the batch's own, and gradients 2 Σφ and
    2 tril(Σ)φ.
    """
    rows = z.flatten(0, 1)  # [B*J, P]
    if triangle:
        pushed = (rows @ moment.tril().mT).detach()  # row by row tril(Σ) φ
        return 2 * (rows * pushed).sum(1).mean()
    return ((rows @ moment.detach()) * rows).sum(1).mean()


def minc_alpha_loss(z: Tensor, positives: Tensor, alpha: float) -> Tensor:
    """−2 φᵀ sg(w φ⁺) + φᵀ sg(Σ_x) φ, Σ_x = E_x′[w φ′φ′ᵀ], w = |t|^(α−2): ``[B, J, P]`` -> scalar.

    Its gradient is what it is for, half of the family's; its value is the family's at α = 2 alone.
    E_x′ is over all views of the batch, those of the same image included.

    Raises:
        ValueError: if J is less than 2.
    """
    J = z.shape[1]  # noqa: N806
    if J < 2:
        raise ValueError(f"MINC pulls views together: it needs at least 2 an image, not {J}")
    pairs = z @ positives.detach().mT  # [B, J, J], t of p(x, x⁺)
    different = ~torch.eye(J, dtype=torch.bool, device=z.device)
    pull = (_weights(pairs, alpha) * pairs)[:, different].mean()
    rows = z.flatten(0, 1)  # [B*J, P]
    products = rows @ rows.detach().mT  # [B*J, B*J], t of p(x)p(x′)
    push = (_weights(products, alpha) * products.square()).mean()
    return push - 2 * pull


def _weights(t: Tensor, alpha: float) -> Tensor:
    return t.detach().abs().clamp_min(_FLOOR).pow(alpha - 2)
