"""LARS: stochastic gradient descent with steps relative to the norm of each layer's weights.

You, Gitman, Ginsburg 2017 (arXiv 1708.03888), in the form used by SimCLR and BYOL. For one
parameter w with gradient g, weight decay λ, trust coefficient η, momentum m and learning rate α:

    u = g + λ w
    v ← m v + η ‖w‖/‖u‖ · u          (v ← m v + u if w is not adapted, or ‖w‖ or ‖u‖ is 0)
    w ← w − α v

The trust ratio in the paper is η ‖w‖/(‖g‖ + λ‖w‖), which is the same up to the angle between g and
w. The learning rate is outside the velocity, as in BYOL and in torch's SGD. In the paper and in
SimCLR it is inside, which only makes a difference while α changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

__all__ = ["LARS"]


class LARS(torch.optim.Optimizer):
    """Adapts every parameter, except in groups that set ``adapt`` to False.

    Biases and normalisation layers belong in such a group, with a ``weight_decay`` of 0.

    Args:
        params: Parameters, or groups of parameters.
        lr: α, usually 0.1 to 0.5 per 256 images in a step.
        momentum: m.
        weight_decay: λ.
        trust: η.

    Raises:
        ValueError: If a setting is negative, or the momentum is 1 or more.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        for name, value in settings.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if momentum >= 1:
            raise ValueError(f"momentum must be less than 1, got {momentum}")
        super().__init__(params, {**settings, "adapt": True})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                update = w.grad + group["weight_decay"] * w
                if group["adapt"]:
                    update *= _trust_ratio(w, update, group["trust"])
                state = self.state[w]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(w)
                state["velocity"].mul_(group["momentum"]).add_(update)
                w.sub_(group["lr"] * state["velocity"])
        return loss


def _trust_ratio(w: Tensor, update: Tensor, trust: float) -> Tensor:
    """Return η ‖w‖/‖u‖, a scalar, or 1 if either is 0; computed on the device without waiting."""
    sizes = w.norm(), update.norm()
    return torch.where((sizes[0] > 0) & (sizes[1] > 0), trust * sizes[0] / sizes[1], 1.0)
