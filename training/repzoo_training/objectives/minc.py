"""MINC: the spectral contrastive loss without pairs; each view is compared with a summary of all.

Guo, Avila Pires, Khetarpal, Schuurmans, Dai 2025, "Representation Learning via Non-Contrastive
Mutual Information" (arXiv 2504.16667). With φ a projected view, φ⁺ another view of the same image,
sg the stop-gradient, and Σ = E[φφᵀ] over all views:

    loss = −2 φᵀ sg(φ⁺) + φᵀ sg(Σ) φ

averaged over all ordered pairs of different views (J = 2 is symmetric in the two views). If Σ is
computed from the batch itself and φ⁺ by the trained network, the gradient is half the gradient of
the spectral loss in which all pairs repel, including pairs of one image and of a view with itself.
The advantage is that Σ can be a moving average, with a lower variance than a batch of pairs, and
that φ⁺ can come from a target network. With the triangle of the generalised Hebbian algorithm
(Sanger 1989),

    loss = −2 φᵀ sg(φ⁺) + 2 φᵀ sg(tril(Σ) φ)

each component is only pushed away from the components before it, and the components are the ordered
eigenfunctions themselves, not an arbitrary rotation. The quadratic form φᵀ tril(Σ) φ only depends
on the symmetric part of the triangle, which is why the triangle must be inside the stop-gradient.

What we derived ourselves: the text of the paper was not available when this was written. The loss
is derived from its abstract and from descriptions of it, and the whole α-divergence family for α ≠
2 is our own derivation. For f(r) = 2 (r^α − αr + α − 1)/(α(α − 1)), which is (r − 1)² at α = 2,

    D_f(p(x, x⁺) ‖ p(x)p(x′)) = sup_r E_p[f′(r)] − E_p×p[r f′(r) − f(r)]

is attained by the density ratio r, which t = φᵀφ′ models. Without constants, the loss is

    −2/(α − 1) E_p[t^(α−1)] + 2/α E_p×p[t^α]

with gradient E_p[−2 t^(α−2) ∇t] + E_p×p[2 t^(α−1) ∇t]: the gradient of the spectral loss with each
pair weighted by t^(α−2). With w = |t|^(α−2) and Σ_x = E_x′[w φ′φ′ᵀ] for each x, half of it is the
gradient of

    loss = −2 φᵀ sg(w φ⁺) + φᵀ sg(Σ_x) φ

Unlike a density ratio, t can be negative. As at α = 2, powers are continued as odd functions in the
first term and as even functions in the second. In w, |t| is at least 0.1; otherwise weights for α <
2 would be unbounded. Σ_x is not a second moment of the data alone, because it depends on the pairs
of the batch. Neither the moving average nor the triangle exists for α ≠ 2.
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

#: The smallest |t| in the weights |t|^(α−2).
_FLOOR = 0.1


class MINC(Objective):
    """−2 φᵀ sg(φ⁺) + φᵀ sg(Σ) φ and its variants.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``.
        projector: ``[N, D]`` -> φ ``[N, P]``; discarded after training.
        moment: The moving average of Σ, ``[P, P]``, or None to use Σ of each batch.
        alpha: α of the divergence; values other than 2 allow neither ``moment`` nor ``triangle``.
        triangle: Use the generalised Hebbian algorithm.
        target_momentum: m of the target network for φ⁺; 0 uses φ itself, without a second forward
            pass.

    Raises:
        ValueError: If ``alpha`` is not positive, ``target_momentum`` is not in [0, 1), or α ≠ 2 is
            combined with ``moment`` or ``triangle``.
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
            raise ValueError(f"alpha must be positive, got {alpha}")
        if alpha != 2 and (moment is not None or triangle):
            raise ValueError(
                f"alpha={alpha} weights each pair, so there is no single Σ to average or to take "
                "the triangle of: set moment_momentum to 0 and triangle to false, or alpha to 2"
            )
        if not 0 <= target_momentum < 1:
            raise ValueError(f"target_momentum must be in [0, 1), got {target_momentum}")
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
        """Return ``loss``, and for α = 2 its terms ``attraction`` and ``damping``.

        Raises:
            ValueError: If there is only one view per image.
        """
        B, J = batch.several_views("MINC")  # noqa: N806
        x = batch.views.flatten(0, 1)  # [B*J, C, H, W]
        z = self.projector(self.encoder(x))  # [B*J, P]
        positives = z.detach() if self.target is None else self.target(x)  # [B*J, P]
        with torch.autocast(z.device.type, enabled=False):
            z = gather(z.float().unflatten(0, (B, J)))  # [N, J, P], from all processes
            positives = gather(positives.float().unflatten(0, (B, J)))  # [N, J, P]
            if self.alpha != 2:
                return {"loss": minc_alpha_loss(z, positives, self.alpha)}
            moment = second_moment(z.detach())  # [P, P]
            if self.moment is not None:
                moment = self.moment.update(moment)
            pull, push = attraction(z, positives), damping(z, moment, triangle=self.triangle)
            return {"loss": push - 2 * pull, "attraction": pull, "damping": push}

    def after_step(self, progress: float) -> None:
        if self.target is not None:
            online = nn.Sequential(self.encoder, self.projector)
            self.target.follow(online, self.target_momentum)


class MomentAverage(nn.Module):
    """The exponential moving average of Σ, including the last batch, without a bias towards zero.

    S ← m S + (1 − m) Σ,  w ← m w + (1 − m),  average S/w. After the first batch, it is that batch's
    Σ.

    Args:
        dim: P.
        momentum: m.

    Raises:
        ValueError: If ``momentum`` is not in [0, 1).
    """

    total: Tensor
    weight: Tensor

    def __init__(self, dim: int, momentum: float = 0.8) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"the momentum of Σ must be in [0, 1), got {momentum}")
        self.momentum = momentum
        self.register_buffer("total", torch.zeros(dim, dim))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(self, moment: Tensor) -> Tensor:
        """Add Σ of a batch, ``[P, P]``, and return the average ``[P, P]`` as a new tensor."""
        self.total.lerp_(moment.to(self.total), 1 - self.momentum)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.momentum)
        return self.total / self.weight


def second_moment(z: Tensor) -> Tensor:
    """Return Σ = E[φφᵀ] over images and views: ``[B, J, P]`` -> ``[P, P]``."""
    rows = z.flatten(0, 1)  # [B*J, P]
    return rows.mT @ rows / len(rows)


def damping(z: Tensor, moment: Tensor, *, triangle: bool) -> Tensor:
    """Return the mean of φᵀ sg(Σ) φ or 2 φᵀ sg(tril(Σ) φ) over views, a scalar.

    If Σ is the batch's own, the first equals ‖Σ‖²_F and the second is at least that. The gradients
    are 2 Σφ and 2 tril(Σ)φ.

    Args:
        z: φ ``[B, J, P]``.
        moment: Σ ``[P, P]``.
        triangle: Use the second form.
    """
    rows = z.flatten(0, 1)  # [B*J, P]
    if triangle:
        pushed = (rows @ moment.tril().mT).detach()  # [B*J, P], tril(Σ) φ in each row
        return 2 * (rows * pushed).sum(1).mean()
    return ((rows @ moment.detach()) * rows).sum(1).mean()


def minc_alpha_loss(z: Tensor, positives: Tensor, alpha: float) -> Tensor:
    """Return −2 φᵀ sg(w φ⁺) + φᵀ sg(Σ_x) φ, w = |t|^(α−2): ``[B, J, P]`` twice -> scalar.

    Σ_x = E_x′[w φ′φ′ᵀ], where E_x′ is over all views of the batch, including views of the same
    image. The loss exists for its gradient, half the gradient of the family. Its value is the
    family's at α = 2 only.
    """
    J = z.shape[1]  # noqa: N806
    pairs = z @ positives.detach().mT  # [B, J, J], t under p(x, x⁺)
    different = ~torch.eye(J, dtype=torch.bool, device=z.device)  # [J, J]
    pull = (_weights(pairs, alpha) * pairs)[:, different].mean()
    rows = z.flatten(0, 1)  # [B*J, P]
    products = rows @ rows.detach().mT  # [B*J, B*J], t under p(x)p(x′)
    push = (_weights(products, alpha) * products.square()).mean()
    return push - 2 * pull


def _weights(t: Tensor, alpha: float) -> Tensor:
    return t.detach().abs().clamp_min(_FLOOR).pow(alpha - 2)
