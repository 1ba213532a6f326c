"""Optimizers: comparison with explicit definitions; the schedule as a function of the step."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from lightly.utils.lars import LARS as LightlyLARS  # noqa: N811
from repzoo_training.errors import RecipeError
from repzoo_training.optim.lars import LARS
from repzoo_training.optim.optimizers import build_optimizer, learning_rate
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe
from torch import Tensor, nn


def recipe(*settings: str) -> Recipe:
    return override(find_recipe("simvae-mnist"), settings)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)
    ).double()


def descend(module: nn.Module, optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    """Take one step per learning rate, which is set in the same way as in the trainer."""
    random = torch.Generator().manual_seed(1)
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = torch.randn(8, 1, 4, 4, generator=random, dtype=torch.float64)
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()


def naive_lars(
    weights: list[float],
    gradient: list[float],
    velocity: list[float],
    *,
    rate: float,
    momentum: float,
    decay: float,
    adapt: bool,
) -> tuple[list[float], list[float]]:
    """One step on Python floats."""
    update = [g + decay * w for w, g in zip(weights, gradient, strict=True)]
    scale = 1.0
    if adapt:
        w_norm = math.sqrt(math.fsum(w * w for w in weights))
        u_norm = math.sqrt(math.fsum(u * u for u in update))
        if w_norm > 0 and u_norm > 0:
            scale = 0.001 * w_norm / u_norm
    velocity = [momentum * v + scale * u for v, u in zip(velocity, update, strict=True)]
    return [w - rate * v for w, v in zip(weights, velocity, strict=True)], velocity


def test_lars_follows_its_equations() -> None:
    module = network()
    optimizer = build_optimizer(
        recipe("optimizer=lars", "weight_decay=0.1", "momentum=0.8", "learning_rate=3.0"), module
    )
    weights = [p.flatten().tolist() for p in module.parameters()]
    velocities = [[0.0] * len(w) for w in weights]
    random = torch.Generator().manual_seed(1)
    for rate in (3.0, 5.0, 0.5, 2.0):
        x = torch.randn(8, 1, 4, 4, generator=random, dtype=torch.float64)
        optimizer.zero_grad()
        module(x).square().sum().backward()
        for i, p in enumerate(module.parameters()):
            assert p.grad is not None
            kernel = p.ndim > 1
            weights[i], velocities[i] = naive_lars(
                weights[i],
                p.grad.flatten().tolist(),
                velocities[i],
                rate=rate,
                momentum=0.8,
                decay=0.1 if kernel else 0.0,
                adapt=kernel,
            )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for p, expected in zip(module.parameters(), weights, strict=True):
            assert p.flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_lars_is_lightlys_but_for_where_the_decay_stands() -> None:
    """lightly divides by ‖g‖ + λ‖w‖, and we divide by ‖g + λw‖; the difference vanishes with λ."""
    ours, theirs = network(), network()
    kernels = [[p for p in module.parameters() if p.ndim > 1] for module in (ours, theirs)]
    rates = [3.0, 5.0, 0.5, 2.0]
    descend(ours, LARS(kernels[0], 1.0, momentum=0.9, weight_decay=1e-9), rates)
    descend(theirs, LightlyLARS(kernels[1], 1.0, momentum=0.9, weight_decay=1e-9), rates)
    assert torch.dist(kernels[0][0], next(network().parameters())) > 1e-3
    for mine, their in zip(*kernels, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-6, atol=1e-9)


def test_the_first_step_of_lars_is_a_share_of_each_layers_size() -> None:
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    descend(module, build_optimizer(recipe("optimizer=lars"), module), [7.0])
    for p, old in zip(module.parameters(), before, strict=True):
        if p.ndim > 1:
            share = (torch.dist(p, old) / old.norm()).item()
            assert share == pytest.approx(7.0 * 0.001, rel=1e-9)


def test_lars_leaves_a_layer_of_zeros_to_its_gradient() -> None:
    w = nn.Parameter(torch.zeros(2, 2))
    w.grad = torch.ones(2, 2)
    LARS([w], 0.5, momentum=0.0).step()
    assert torch.equal(w, torch.full((2, 2), -0.5))
    w.grad = torch.zeros(2, 2)
    LARS([w], 0.5).step()
    assert torch.equal(w, torch.full((2, 2), -0.5))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_a_saved_optimizer_goes_on_bit_for_bit(name: str) -> None:
    settings = recipe(f"optimizer={name}", "weight_decay=0.01")
    straight, stopped = network(), network()
    rates = [1e-3, 2e-3, 1.5e-3, 5e-4]
    optimizer = build_optimizer(settings, straight)
    descend(straight, optimizer, rates)
    descend(straight, optimizer, rates)

    optimizer = build_optimizer(settings, stopped)
    descend(stopped, optimizer, rates)
    saved = copy.deepcopy((stopped.state_dict(), optimizer.state_dict()))
    resumed = network()
    resumed.load_state_dict(saved[0])
    optimizer = build_optimizer(settings, resumed)
    optimizer.load_state_dict(saved[1])
    descend(resumed, optimizer, rates)
    for p, q in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(next(iter(stopped.parameters())), next(iter(resumed.parameters())))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_only_matrices_and_kernels_decay(name: str) -> None:
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = build_optimizer(recipe(f"optimizer={name}", "weight_decay=0.1"), module)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, old in zip(module.parameters(), before, strict=True):
        assert (p.norm() < old.norm()) == (p.ndim > 1)


def test_what_is_frozen_is_not_trained() -> None:
    module = network()
    next(module.parameters()).requires_grad_(False)
    optimizer = build_optimizer(recipe("optimizer=lars"), module)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_nesterov_looks_ahead() -> None:
    """torch's form: w ← w − α (u + m v)."""
    w = nn.Parameter(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    module = nn.ParameterList([w])
    optimizer = build_optimizer(
        recipe("optimizer=sgd", "nesterov=true", "momentum=0.5", "learning_rate=0.1"), module
    )
    expected, velocity = w.detach().clone(), torch.zeros(1, 2, dtype=torch.float64)
    for gradient in (torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 3.0]])):
        w.grad = gradient.double()
        optimizer.step()
        velocity = 0.5 * velocity + w.grad
        expected = expected - 0.1 * (w.grad + 0.5 * velocity)
        torch.testing.assert_close(w.detach(), expected)


def schedule(settings: Recipe) -> Tensor:
    return torch.tensor([learning_rate(settings, step) for step in range(settings.steps)])


def test_the_schedule_warms_up_and_then_follows_its_name() -> None:
    base = ("views=6400", "images_per_step=8", "views_per_image=4", "learning_rate=0.5")
    cosine = schedule(recipe(*base, "warmup=0.1"))
    constant = schedule(recipe(*base, "warmup=0.1", "schedule=constant"))
    assert len(cosine) == 200
    ramp = 0.5 * torch.arange(1, 21) / 20
    torch.testing.assert_close(cosine[:20], ramp)
    torch.testing.assert_close(constant[:20], ramp)
    assert (constant[20:] == 0.5).all()
    falling = 0.25 * (1 + torch.cos(torch.linspace(0, math.pi, 181)))
    torch.testing.assert_close(cosine[20:], falling[:-1])
    assert (schedule(recipe(*base, "warmup=0", "schedule=constant")) == 0.5).all()
    torch.testing.assert_close(schedule(recipe(*base, "warmup=1"))[-1].item(), 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("optimizer=adagrad",), "optimizer.*'lars'"),
        (("schedule=linear",), "schedule.*'constant'"),
        (("nesterov=true",), "nesterov.*optimizer is adamw.*set optimizer=sgd"),
        (("optimizer=sgd", "nesterov=true", "momentum=0"), "momentum 0"),
        (("optimizer=lars", "momentum=1"), "momentum"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(*settings)


def test_lars_refuses_what_it_cannot_do() -> None:
    w = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="weight_decay must not be negative, got -1"):
        LARS([w], 0.1, weight_decay=-1)
    with pytest.raises(ValueError, match="less than 1"):
        LARS([w], 0.1, momentum=1.0)
