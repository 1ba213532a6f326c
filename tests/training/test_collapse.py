"""Collapse: comparison of its statistics with naive NumPy, and its monitor in real runs."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from repzoo_training import objectives
from repzoo_training.data import ImageDataset
from repzoo_training.loop.trainer import train
from repzoo_training.objectives import Batch, Method, Objective, Parts
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.run import Run
from repzoo_training.watching.collapse import (
    NOISE,
    CollapseMonitor,
    correlation,
    diagnose,
    effective_rank,
    entropy,
    measure,
    rankme,
    signal,
    spectrum,
    spread,
    std,
)
from torch import Tensor, nn

DATA = Path(__file__).parents[1] / "data" / "mnist"
SMALL = ("network.widths=[64,32]", "images_per_step=16", "views_per_image=4", "precision=float32")


@pytest.fixture
def small() -> Recipe:
    return override(find_recipe("simvae-mnist"), (*SMALL, "views=6400"))


# The measures


@pytest.fixture(params=[(200, 6), (20, 30)], ids=["tall", "wide"])
def z(request: pytest.FixtureRequest) -> NDArray[np.float64]:
    rows, dim = request.param
    random = np.random.default_rng(0)
    mixed = random.normal(size=(rows, dim)) @ random.normal(size=(dim, dim))
    return np.asarray(mixed * np.geomspace(0.1, 3, dim) + random.normal(size=dim))


def covariance(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute (1/N) Σ_n (z_n − z̄)(z_n − z̄)ᵀ explicitly."""
    mean = sum(z) / len(z)
    return np.asarray(sum(np.outer(row - mean, row - mean) for row in z) / len(z))


def rank_of(values: NDArray[np.float64]) -> float:
    shares = [value / sum(values) + 1e-7 for value in values]  # with the paper's ε
    return math.exp(-sum(p * math.log(p) for p in shares))


def test_spectrum(z: NDArray[np.float64]) -> None:
    values = np.linalg.svd(covariance(z), compute_uv=False)[: min(z.shape)]
    np.testing.assert_allclose(spectrum(torch.from_numpy(z)), values, atol=1e-10)


def test_rankme(z: NDArray[np.float64]) -> None:
    expected = rank_of(np.linalg.svd(z, compute_uv=False))
    assert rankme(torch.from_numpy(z)) == pytest.approx(expected, rel=1e-4)
    expected = rank_of(np.linalg.svd(z - z.mean(0), compute_uv=False))
    assert effective_rank(torch.from_numpy(z)) == pytest.approx(expected, rel=1e-4)


def test_entropy(z: NDArray[np.float64]) -> None:
    dim = z.shape[1]
    sign, log_det = np.linalg.slogdet(2 * np.pi * np.e * (covariance(z) + 1e-3 * np.eye(dim)))
    assert sign == 1
    assert entropy(torch.from_numpy(z), 1e-3) == pytest.approx(log_det / 2)


def test_correlation(z: NDArray[np.float64]) -> None:
    matrix = np.abs(np.corrcoef(z.T))
    dim = len(matrix)
    pairs = [matrix[i, j] for i in range(dim) for j in range(dim) if i != j]
    assert correlation(torch.from_numpy(z)) == pytest.approx(np.mean(pairs))
    with_constant = torch.from_numpy(np.column_stack([z, np.full(len(z), 0.1)]))
    assert correlation(with_constant) == pytest.approx(np.mean(pairs))
    assert correlation(torch.from_numpy(z[:, :1])) == 0


def test_std_and_spread(z: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(std(torch.from_numpy(z)), np.sqrt(np.diag(covariance(z))))
    norm = np.mean([row @ row for row in z])
    trace = np.trace(covariance(z))
    assert spread(torch.from_numpy(z)) == pytest.approx(np.sqrt(trace / norm))
    variance = np.random.default_rng(1).random(z.shape)
    noise = np.mean(variance.sum(1))
    ours = signal(torch.from_numpy(z), torch.from_numpy(variance))
    assert ours == pytest.approx(np.sqrt(trace / (trace + noise)))


def test_what_does_not_matter(z: NDArray[np.float64]) -> None:
    """Scale does not affect the diagnosis; nor does rotation, except for correlation and std."""
    turned, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(z.shape[1], z.shape[1])))
    a, b = (measure(torch.from_numpy(x)) for x in (z, 1e-4 * z @ turned))
    for name in ("rankme", "effective_rank", "spread"):
        assert getattr(a, name) == pytest.approx(getattr(b, name))
    assert a.correlation == pytest.approx(measure(torch.from_numpy(50 * z)).correlation)


# The diagnosis


def cloud(dim: int, filled: int, offset: float = 0.0) -> Tensor:
    """512 points that fill some dimensions equally, and the others at a scale of 1e-4."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.full((dim,), 1e-4)
    scale[:filled] = 1
    return torch.randn(512, dim, generator=generator) * scale + offset


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (cloud(10, 10), None),
        (cloud(10, 2), None),  # eight inactive dimensions, as a VAE may have
        (cloud(64, 8), None),
        (cloud(10, 10, offset=20), None),
        (cloud(10, 1), "dimensional"),
        (cloud(512, 3), "dimensional"),
        (cloud(10, 10, offset=200), "complete"),
        (torch.zeros(512, 10), "complete"),
        (torch.full((512, 10), 0.3), "complete"),
        (1e-12 * cloud(10, 10), None),  # small is not collapsed
    ],
)
def test_diagnosis(z: Tensor, expected: str | None) -> None:
    assert diagnose(measure(z)) == expected


def test_means_within_their_noise_are_collapse() -> None:
    mean = 0.9 * NOISE * cloud(10, 10)
    assert diagnose(measure(mean, torch.ones_like(mean))) == "complete"
    assert diagnose(measure(mean, torch.full_like(mean, 0.01))) is None
    # one active dimension of 64, the others with mean 0 and variance 1
    partial = cloud(64, 5)
    variance = torch.ones(512, 64)
    variance[:, :5] = 0.01
    assert diagnose(measure(partial, variance)) is None


# The monitor, in runs of the real trainer


class PullTogether(Objective):
    """Pulls all views and images together, without any repulsion."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)

    @classmethod
    def build(cls, parts: Parts) -> PullTogether:
        return cls(parts.encoder)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z = self.encoder(batch.views.flatten(0, 1))
        return {"loss": (z - z.mean(0)).square().sum(1).mean()}


@pytest.fixture
def collapsing(monkeypatch: pytest.MonkeyPatch, small: Recipe) -> Recipe:
    method = Method("Pull", "information maximisation", None, PullTogether.build)
    monkeypatch.setitem(cast(dict[str, Method], objectives.METHODS), "pull", method)
    changes = ["method=pull", "options={}", "likelihood=null", "learning_rate=0.01", "views=12800"]
    return override(small, changes)


def observations(run: Run) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [line for line in lines if "spectrum" in line]


def test_a_collapsing_run_says_so_while_it_runs(
    collapsing: Recipe, mnist: ImageDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(collapsing, mnist, tmp_path, progress=False)
    (warning,) = capsys.readouterr().err.splitlines()  # one line, once
    found = re.search(r"has collapsed at step (\d+) of 200", warning)
    assert found
    assert int(found[1]) < 200
    assert "all images are embedded at nearly one point" in warning
    assert "Try heavier variance and covariance terms" in warning
    flags = {line["step"]: line["collapsed"] for line in observations(run)}
    assert next(step for step, flag in flags.items() if flag) == int(found[1])
    assert flags[200]


def test_a_healthy_run_does_not(
    small: Recipe, mnist: ImageDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(small, mnist, tmp_path, progress=False)
    assert capsys.readouterr().err == ""
    seen = observations(run)
    assert len(seen) >= 4
    assert not any(line["suspect"] or line["collapsed"] for line in seen)
    assert all(len(line["spectrum"]) == small.latent_dim for line in seen)
    picture = np.asarray(Image.open(run.figures / "collapse.png"))
    assert picture.std() > 10  # not blank


class Scaled(Objective):
    """Batch normalisation and a linear map whose scale the test chooses."""

    def __init__(self) -> None:
        linear = nn.Linear(784, 10)
        super().__init__(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Dropout(), linear))
        self.linear = linear

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError


def monitor(recipe: Recipe, mnist: ImageDataset, folder: Path) -> CollapseMonitor:
    (folder / "figures").mkdir(exist_ok=True)
    images = torch.from_numpy(mnist.images).permute(0, 3, 1, 2)
    return CollapseMonitor(Run(folder), recipe, images, report_every=1)


def test_one_warning_for_each_onset_also_across_a_resume(
    small: Recipe, mnist: ImageDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = Scaled()
    weight = objective.linear.weight.detach().clone()
    watch = monitor(small, mnist, tmp_path)
    warned = []
    for number, scale in enumerate([1, 0, 1, 0, 0, 0, 0, 1, 0, 0], start=1):
        with torch.no_grad():
            objective.linear.weight.copy_(scale * weight)
        step = number * watch.every
        seen = watch.observe(objective, step)
        watch.run.report({"step": step, "views": step, **seen})
        if capsys.readouterr().err:
            warned.append(number)
        if number == 6:  # the process ends, and another one resumes
            watch = monitor(small, mnist, tmp_path)
    assert warned == [5, 10]
    watch.draw()
    assert (tmp_path / "figures" / "collapse.png").exists()


def test_watching_changes_nothing(small: Recipe, mnist: ImageDataset, tmp_path: Path) -> None:
    objective = Scaled().train()
    objective.encoder[2].eval()  # type: ignore[index]
    before = copy.deepcopy(objective.state_dict())
    random = torch.get_rng_state()
    watch = monitor(small, mnist, tmp_path)
    first = watch.observe(objective, small.steps)
    assert watch.observe(objective, small.steps) == first
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name])
    assert [module.training for module in objective.encoder] == [True, True, False, True]  # type: ignore[union-attr]
    assert objective.encoder.training


def test_between_observations_there_is_nothing_and_infinity_is_the_trainers(
    small: Recipe, mnist: ImageDataset, tmp_path: Path
) -> None:
    watch = monitor(small, mnist, tmp_path)
    assert watch.every > 1
    assert watch.observe(Scaled(), 1) == {}
    wild = Scaled()
    wild.linear.bias.data.fill_(math.inf)
    assert watch.observe(wild, small.steps) == {}


def test_what_it_costs(mnist: ImageDataset, tmp_path: Path) -> None:
    """A long run takes about forty observations of 512 images, and a short run fewer."""
    long = find_recipe("simvae-mnist")
    watch = monitor(long, mnist, tmp_path)
    assert len(watch.sample) == 512
    assert 38 <= long.steps / watch.every <= 42
    short = override(long, ["views=30000"])
    watch = monitor(short, mnist, tmp_path)
    assert len(watch.sample) * short.steps / watch.every <= 0.12 * 30_000
