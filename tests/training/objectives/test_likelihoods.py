"""The optimal Gaussian under data parallelism: two real processes compared with one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repzoo_training.objectives.likelihoods import OptimalGaussian
from torch import Tensor

WORKER = """
import sys
import torch
from torch import distributed as dist
from repzoo_training.objectives.likelihoods import OptimalGaussian

rank, meeting, data = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
x, z, weight = torch.load(data)
weight.requires_grad_()
own = slice(4 * rank, 4 * rank + 4)
loss = -OptimalGaussian().log_prob(x[own], z[own] @ weight).mean()
loss.backward()
mean = torch.cat([loss.detach()[None], weight.grad.flatten()])
dist.all_reduce(mean)
torch.save(mean / 2, f"{data}.{rank}")
dist.destroy_process_group()
"""


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Images, whose second half is much harder to decode; latents; a linear decoder."""
    random = torch.Generator().manual_seed(0)
    x = torch.rand(8, 12, generator=random, dtype=torch.float64)
    x[:4] = 0.5 + 0.01 * x[:4]
    z = torch.randn(8, 3, generator=random, dtype=torch.float64)
    return x, z, 0.1 * torch.randn(3, 12, generator=random, dtype=torch.float64)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    x, z, weight = example()
    torch.save((x, z, weight), tmp_path / "data")
    weight.requires_grad_()
    loss = -OptimalGaussian().log_prob(x, z @ weight).mean()
    loss.backward()
    assert weight.grad is not None
    expected = torch.cat([loss.detach()[None], weight.grad.flatten()])

    words = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*words, str(rank), str(tmp_path / "meeting"), str(tmp_path / "data")])
        for rank in range(2)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"data.{rank}"), expected)

    # With a separate variance per share, the loss would be different.
    halves = [(x[own], (z @ weight)[own]) for own in (slice(4), slice(4, 8))]
    shares = [-OptimalGaussian().log_prob(*half).mean() for half in halves]
    assert abs((shares[0] + shares[1]).item() / 2 - loss.item()) > 0.1


def test_the_gradient_is_that_of_the_profile_likelihood() -> None:
    """Finite differences through the variance, which the code detaches."""
    x, z, weight = example()
    weight.requires_grad_()

    def profile(w: Tensor) -> Tensor:
        error = (x - torch.sigmoid(z @ w)).square()
        return -0.5 * 12 * (1 + torch.log(2 * torch.pi * error.mean()))

    log_prob = OptimalGaussian().log_prob(x, z @ weight).mean()
    log_prob.backward()
    assert log_prob.item() == pytest.approx(profile(weight).item(), rel=1e-12)
    step = 1e-6
    assert weight.grad is not None
    for place in ((0, 0), (1, 5), (2, 11)):
        with torch.no_grad():
            shift = torch.zeros_like(weight)
            shift[place] = step
            slope = (profile(weight + shift) - profile(weight - shift)) / (2 * step)
        assert weight.grad[place].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-7)
