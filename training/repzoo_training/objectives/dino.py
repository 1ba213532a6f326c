"""DINO: a student matches the sharpened and centred class distribution of its slow copy.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin 2021, "Emerging Properties in
Self-Supervised Vision Transformers" (arXiv 2104.14294). A head maps views i and j to K logits, t_i
(teacher) and s_j (student). Over all pairs of different views,

    loss = mean_{i≠j} −Σ_k p_ik log q_jk,     p_i = softmax((t_i − c)/τ_t),  q_j = softmax(s_j/τ_s)

The teacher gets no gradient. Its weights follow the student's, with m rising to 1 along half a
cosine. Its centre c follows the mean teacher logits of the batch, c ← 0.9 c + 0.1 t̄. The centre
prevents one class from always winning, and the sharpening τ_t < τ_s prevents a uniform
distribution.

Images here are small, so all J views are global views in the paper's sense: both networks see all
of them, and there are no local crops. The paper's warm-up of τ_t and the frozen last layer in its
first epoch are omitted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repzoo_training.distributed.gather import gather
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives.momentum import cosine_momentum, follow, frozen_copy
from repzoo_training.objectives.objective import Batch, Objective, Parts

__all__ = ["DINO", "DINOHead", "distillation_loss"]


class DINO(Objective):
    """Self-distillation without labels.

    The representation, ``encoder``, is the teacher: the paper evaluates the teacher, which is
    better than the student throughout training. The optimizer trains ``student``.

    Args:
        encoder: Images ``[N, C, H, W]`` -> embedding ``[N, D]``; becomes the student.
        head: ``[N, D]`` -> logits ``[N, K]``.
        classes: K, the number of outputs that are compared.
        momentum: m, the momentum of the teacher, at the start of the run.
        teacher_temperature: τ_t of the teacher's softmax.
        student_temperature: τ_s of the student's softmax.
        center_momentum: The momentum of c; 0.9 in the paper.

    Attributes:
        center: float32 ``[K]``, c.

    Raises:
        ValueError: If a temperature is not positive, or a momentum is not in [0, 1].
    """

    center: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        classes: int,
        *,
        momentum: float = 0.99,
        teacher_temperature: float = 0.04,
        student_temperature: float = 0.1,
        center_momentum: float = 0.9,
    ) -> None:
        if not min(teacher_temperature, student_temperature) > 0:
            raise ValueError(
                "temperatures must be positive, got "
                f"teacher_temperature={teacher_temperature}, "
                f"student_temperature={student_temperature}"
            )
        for name, value in (("momentum", momentum), ("center_momentum", center_momentum)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        super().__init__(frozen_copy(encoder))
        self.head = frozen_copy(head)
        self.student = encoder
        self.student_head = head
        self.register_buffer("center", torch.zeros(classes))
        self.momentum = momentum
        self.teacher_temperature = teacher_temperature
        self.student_temperature = student_temperature
        self.center_momentum = center_momentum

    @classmethod
    def build(
        cls,
        parts: Parts,
        *,
        projection_hidden: int = 512,
        bottleneck_dim: int = 64,
        classes: int = 512,
        momentum: float = 0.99,
        teacher_temperature: float = 0.04,
        student_temperature: float = 0.1,
        center_momentum: float = 0.9,
    ) -> DINO:
        return cls(
            parts.encoder,
            DINOHead((parts.latent_dim, projection_hidden, bottleneck_dim), classes),
            classes,
            momentum=momentum,
            teacher_temperature=teacher_temperature,
            student_temperature=student_temperature,
            center_momentum=center_momentum,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, and ``teacher_entropy`` in nats, from 0 to log K.

        Raises:
            ValueError: If there is only one view per image.
        """
        B, J = batch.several_views("DINO")  # noqa: N806
        x = batch.views.flatten(0, 1)  # [B*J, C, H, W]
        student = self.student_head(self.student(x))  # [B*J, K]
        with torch.no_grad():
            teacher = self.head(self.encoder(x))  # [B*J, K]
        with torch.autocast(x.device.type, enabled=False):
            student, teacher = (t.float() for t in (student, teacher))
            p = F.softmax((teacher - self.center) / self.teacher_temperature, dim=1)  # [B*J, K]
            log_q = F.log_softmax(student / self.student_temperature, dim=1)  # [B*J, K]
            loss = distillation_loss(p.unflatten(0, (B, J)), log_q.unflatten(0, (B, J)))
            entropy = torch.special.entr(p).sum(1).mean()
            mean = gather(teacher.mean(0, keepdim=True)).mean(0)  # [K], over all processes
            self.center.lerp_(mean, 1 - self.center_momentum)
        return {"loss": loss, "teacher_entropy": entropy}

    def after_step(self, progress: float) -> None:
        m = cosine_momentum(self.momentum, progress)
        follow(self.encoder, self.student, m)
        follow(self.head, self.student_head, m)


class DINOHead(nn.Module):
    """An MLP, unit norm, and a last layer of K unit directions: ``[N, D]`` -> cosines ``[N, K]``.

    This is the weight-normalised last layer of the paper, with its scale fixed at 1.

    Args:
        widths: The widths of the MLP, from D to the bottleneck.
        classes: K, the number of outputs that are compared.
    """

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.mlp = ProjectionHead(widths)
        self.directions = nn.Parameter(torch.randn(classes, widths[-1]))

    def forward(self, z: Tensor) -> Tensor:
        z = self.mlp(z)  # [N, bottleneck]
        with torch.autocast(z.device.type, enabled=False):
            return F.normalize(z.float()) @ F.normalize(self.directions).T  # [N, K]


def distillation_loss(p: Tensor, log_q: Tensor) -> Tensor:
    """Return the mean of −Σ_k p_ik log q_jk over images and i ≠ j, a scalar.

    Args:
        p: The teacher's probabilities ``[B, J, K]``, treated as constants.
        log_q: The student's log probabilities ``[B, J, K]``.
    """
    B, J = p.shape[:2]  # noqa: N806
    cross_entropy = -torch.einsum("bik,bjk->ij", p.detach(), log_q) / B  # [J, J]
    return (cross_entropy.sum() - cross_entropy.trace()) / (J * (J - 1))
