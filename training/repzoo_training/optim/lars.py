"""LARS: stochastic gradient descent whose step is a fixed share of each layer's own size.

You, Gitman, Ginsburg 2017 (arXiv 1708.03888), in the form that SimCLR and BYOL train with. For one
parameter w with gradient g, weight decay λ, trust coefficient η, momentum m and learning rate α:

    u = g + λ w
    v ← m v + η ‖w‖/‖u‖ · u          (v ← m v + u where w is not adapted, or ‖w‖ or ‖u‖ is 0)
    w ← w − α v

The paper's own trust ratio is η ‖w‖/(‖g‖ + λ‖w‖), the same up to the angle between g and w. The
learning rate stands outside of the velocity, as in BYOL and in torch's SGD; in the paper and in
SimCLR it is inside, which differs only while α changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

__all__ = ["LARS"]


class LARS(torch.optim.Optimizer):
    """Adapts every parameter but those of groups that set ``adapt`` to False.

    Biases and normalisation layers belong in such a group, with a ``weight_decay`` of 0.

    Args:
        params: parameters, or groups of them.
        lr: α, usually 0.1 to 0.5 for every 256 images of a step.
        momentum: m.
        weight_decay: λ.
        trust: η.

    Raises:
        ValueError: for a negative setting, or a momentum of 1 or more.
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
                raise ValueError(f"{name} must not be negative, but is {value}")
        if momentum >= 1:
            raise ValueError(f"momentum must be below 1, but is {momentum}")
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
    """η ‖w‖/‖u‖, a scalar; 1 where either is 0. It stays on the device: no step waits for it."""
    sizes = w.norm(), update.norm()
    return torch.where((sizes[0] > 0) & (sizes[1] > 0), trust * sizes[0] / sizes[1], 1.0)
