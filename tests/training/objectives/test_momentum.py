"""Momentum copies: comparison with the explicit average."""

from __future__ import annotations

import math

import pytest
import torch
from repzoo_training.objectives.momentum import (
    MomentumCopy,
    cosine_momentum,
    follow,
    frozen_copy,
)
from torch import nn


def test_the_copy_is_an_exponential_moving_average() -> None:
    torch.manual_seed(0)
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    copy = MomentumCopy(source)
    expected = [p.detach().clone() for p in source.parameters()]
    for momentum in (0.9, 0.5, 0.99):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.add_(torch.randn_like(parameter))
        copy.follow(source, momentum)
        expected = [
            momentum * e + (1 - momentum) * p.detach()
            for e, p in zip(expected, source.parameters(), strict=True)
        ]
    for mine, e in zip(copy.module.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, e)


def test_no_gradient_reaches_the_copy_and_none_passes_it() -> None:
    source = nn.Linear(3, 4)
    copy = MomentumCopy(source)
    x = torch.randn(2, 3, requires_grad=True)
    assert not copy(x).requires_grad
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad for p in source.parameters())


def test_the_copy_shares_nothing_with_its_source() -> None:
    source = nn.Linear(3, 4)
    copy = frozen_copy(source)
    before = source.weight.detach().clone()
    follow(copy, nn.Linear(3, 4), 0.0)
    assert torch.equal(source.weight, before)
    assert not torch.equal(copy.weight, before)


def test_statistics_of_batch_normalisation_are_its_own() -> None:
    source = nn.BatchNorm1d(2)
    copy = MomentumCopy(source)
    source(torch.randn(8, 2) + 5)
    copy.follow(source, 0.0)
    assert torch.equal(copy.module.running_mean, torch.zeros(2))
    copy(torch.ones(8, 2))
    torch.testing.assert_close(copy.module.running_mean, torch.full((2,), 0.1))


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        follow(nn.Linear(3, 4), nn.Linear(3, 4, bias=False), 0.9)


def test_cosine_schedule() -> None:
    assert cosine_momentum(0.99, 0.0) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 0.5) == pytest.approx(0.995)
    assert cosine_momentum(0.99, 1.0) == pytest.approx(1.0)
    assert cosine_momentum(0.9, 0.25) == pytest.approx(1 - 0.1 * (math.sqrt(0.5) + 1) / 2)
