"""A small real training, for tests of what an objective does to an encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from repzoo_training.data import load
from repzoo_training.objectives import Batch, Objective, Parts
from repzoo_training.views.views import Views, ViewSpec
from torch import Tensor, nn

DATA = Path(__file__).parents[2] / "data" / "mnist"
VIEWS = ViewSpec(scale=(0.4, 1.0), ratio=(0.75, 1.3))


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """uint8 ``[2000, 1, 28, 28]``."""
    images = load(str(DATA), "train", progress=False).images
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@pytest.fixture
def toy_parts() -> Callable[..., Parts]:
    """``toy_parts(seed=0)``: a small MLP with D = 8 for the digits."""

    def make(seed: int = 0) -> Parts:
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 8))
        return Parts(encoder, 8, 2000)

    return make


@pytest.fixture(scope="session")
def digit_batch(digits: Tensor) -> Callable[..., Batch]:
    """``digit_batch(step, images=64, views=2)``: two views of the next digits."""
    make_views = Views(VIEWS, (28, 28))

    def make(step: int, images: int = 64, views: int = 2) -> Batch:
        indices = (step * images + torch.arange(images)) % len(digits)
        draws = torch.Generator().manual_seed(step)
        return Batch(make_views(digits[indices], views, draws), indices, draws)

    return make


@pytest.fixture(scope="session")
def train_toy(
    digits: Tensor, digit_batch: Callable[..., Batch]
) -> Callable[..., tuple[Tensor, list[float]]]:
    """``train_toy(objective, steps)``: 512 digits to embed ``[512, 1, 28, 28]``, and the losses."""

    def train(objective: Objective, steps: int, rate: float = 3e-3) -> tuple[Tensor, list[float]]:
        parameters = [p for p in objective.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, rate)
        losses = []
        for step in range(steps):
            loss = objective(digit_batch(step))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.after_step((step + 1) / steps)
            losses.append(loss.item())
        return digits[:512] / 255, losses

    return train


@pytest.fixture
def assert_resumes(digit_batch: Callable[..., Batch]) -> Callable[..., None]:
    """``assert_resumes(build)``: a new objective with the state after two steps continues
    identically.

    ``build(seed)`` makes an objective from fresh weights.
    """

    def check(build: Callable[[int], Objective]) -> None:
        objective, other = build(0), build(1)
        optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], 0.1)
        for step in range(2):
            optimizer.zero_grad()
            objective(digit_batch(step))["loss"].backward()
            optimizer.step()
            objective.after_step(step / 10)
        state = {name: value.clone() for name, value in objective.state_dict().items()}
        expected = [objective(digit_batch(step))["loss"].item() for step in (2, 3)]
        assert other(digit_batch(2))["loss"].item() != expected[0]
        other.load_state_dict(state)
        assert [other(digit_batch(step))["loss"].item() for step in (2, 3)] == expected

    return check
