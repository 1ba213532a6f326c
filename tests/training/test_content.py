"""Content posteriors: the loss, the measures, fitting, and what a package gets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import repzoo
import torch
from numpy.typing import NDArray
from repzoo.packages.config import Region
from repzoo.packages.package import Package
from repzoo.runtime.golden import check_golden
from repzoo_training.content import ContentHead, fit_content
from repzoo_training.content.fitting import recalibrate
from repzoo_training.content.measures import (
    Located,
    Measured,
    measure,
    mutual_likelihood,
    recovered,
)
from repzoo_training.content.posterior import negative_log_likelihood
from repzoo_training.data import ImageDataset, load
from repzoo_training.degradations import FIT, degrade
from repzoo_training.export.calibration import calibrate_package
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.uncertainty.examples import make_views, mild
from repzoo_training.uncertainty.metrics import auroc
from scipy.integrate import quad
from scipy.stats import chi2, norm

DATA = Path(__file__).parents[1] / "data" / "mnist"
BUNDLED = Path(__file__).parents[2] / "zoo" / "bundled"
VIEWS = find_recipe("simvae-mnist").augmentation


@pytest.fixture(scope="module")
def train() -> ImageDataset:
    return load(str(DATA), "train", progress=False)


@pytest.fixture(scope="module")
def test() -> ImageDataset:
    return load(str(DATA), "test", progress=False)


def test_the_loss_is_the_gaussian_negative_log_likelihood() -> None:
    generator = torch.Generator().manual_seed(0)
    target, mean, log_variance = torch.randn(3, 5, 4, generator=generator)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = -normal.log_prob(target).mean() - 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(negative_log_likelihood(target, mean, log_variance), expected)


def test_the_mutual_likelihood_is_the_integral_over_the_shared_content() -> None:
    one, other = (0.3, 0.5), (-0.4, 1.3)  # mean, variance

    def both(t: float) -> float:
        return float(norm.pdf(t, one[0], one[1] ** 0.5) * norm.pdf(t, other[0], other[1] ** 0.5))

    integral, _ = quad(both, -20, 20)
    score = mutual_likelihood(
        *(np.array([[value]], np.float32) for value in one),
        *(np.array([[[value]]], np.float32) for value in other),
    )
    assert score.item() == pytest.approx(np.log(integral) + 0.5 * np.log(2 * np.pi), abs=1e-6)


def test_recalibration_makes_the_variance_the_expected_error_and_regions_exact() -> None:
    head = ContentHead(4, (8, 8, 1), has_posterior=False, unit=False).eval()
    images = torch.zeros(4000, 8, 8, 1, dtype=torch.uint8)
    embedding = torch.zeros(4000, 4)
    # The new head predicts variance 1 around the embedding. The truth has variance 4, heavy tails,
    # and one scale for all dimensions of an image.
    random = torch.Generator().manual_seed(0)
    scale = torch.randn(4000, 1, generator=random).exp()
    target = scale * torch.randn(4000, 4, generator=random)
    target *= 2 / target.square().mean().sqrt()
    regions = recalibrate(head.requires_grad_(False), [images, embedding], target)
    _, variance = head(images, embedding)
    np.testing.assert_allclose(variance, 4, rtol=1e-4)
    z2 = target.square() / variance
    for region, probability in zip(regions, (0.5, 0.9, 0.99), strict=True):
        assert region.probability == probability
        inside = (z2 <= region.deviations**2).float().mean()
        assert float(inside) == pytest.approx(probability, abs=1e-3)
        inside = (z2.mean(1) <= region.distance).float().mean()
        assert float(inside) == pytest.approx(probability, abs=1e-3)


@pytest.mark.parametrize("dim", [10, 64, 256, 512, 1024])
def test_a_head_is_small_for_any_dimension(dim: int) -> None:
    head = ContentHead(dim, (64, 64, 3), has_posterior=dim <= 64, unit=True)
    assert 2 * sum(each.numel() for each in head.parameters()) < 0.4 * 2**20


def test_what_is_recovered_is_a_share_of_what_was_lost() -> None:
    def at(euclidean: float, mean: float) -> Measured:
        rows = {"euclidean": euclidean, "mean": mean}
        precision = {name: np.full(50, value, np.float32) for name, value in rows.items()}
        none = np.zeros(50, np.float32)
        return Measured(precision, (0, 0, 0), (0, 0, 0), 0, 0, 0, 0, none, none > 0, none > 0)

    clean = np.full(50, 0.9, np.float32)
    share, low, high = recovered(clean, [at(0.5, 0.7), at(0.1, 0.4)])
    assert share == pytest.approx((0.2 + 0.3) / (0.4 + 0.8))
    assert low == pytest.approx(share)
    assert high == pytest.approx(share)


def test_a_head_finds_noisy_digits_that_the_embedding_does_not(
    train: ImageDataset, test: ImageDataset
) -> None:
    encoder = repzoo.load(BUNDLED / "simvae-mnist", provider="cpu", threads=1)
    fitted = fit_content(
        encoder, train, VIEWS, kinds={"noise": FIT["noise"]}, copies=20_000, progress=False
    )
    assert "degraded by noise" in fitted.spec.fitted_on

    def precision(images: NDArray[np.uint8], *, robust: bool) -> float:
        outputs = encoder.outputs(images)
        query = torch.from_numpy(outputs["embedding"])
        if robust:
            inputs = (torch.from_numpy(values) for values in (images, *outputs.values()))
            query, variance = fitted.head(*inputs)
            assert (variance > 0).all()
        distance = torch.cdist(query, torch.from_numpy(encoder.embed(train.images)))
        nearest = distance.topk(5, largest=False).indices.numpy()
        assert train.labels is not None
        assert test.labels is not None
        return float((train.labels[nearest] == test.labels[:, None]).mean())

    noisy = degrade(test.images, "noise", 3)
    assert precision(noisy, robust=True) > precision(noisy, robust=False) + 0.03
    assert precision(test.images, robust=True) > precision(test.images, robust=False) - 0.05


def test_the_seed_decides_what_is_fitted(train: ImageDataset) -> None:
    encoder = repzoo.load(BUNDLED / "simvae-mnist", provider="cpu", threads=1)
    few = ImageDataset("few", train.images[:300])
    one, same, other = (
        fit_content(encoder, few, VIEWS, copies=600, seed=seed, progress=False).head.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["output.weight"], other["output.weight"])


def test_a_package_gets_a_content_posterior(
    train: ImageDataset, test: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repzoo_training.uncertainty.metrics.RESAMPLES", 20)
    monkeypatch.setattr("repzoo_training.uncertainty.benchmark.CORRUPTED", 50)
    monkeypatch.setattr("repzoo_training.content.fitting.COPIES", 5_000)
    monkeypatch.setattr("repzoo_training.content.benchmark.MOST_QUERIES", 50)
    before = Package.open(BUNDLED / "simvae-mnist")
    out = tmp_path / "robust"
    config, _, report = calibrate_package(
        before, out, train, test, VIEWS, degrade=FIT, progress=False
    )
    package = Package.open(out)
    package.verify()
    assert package.manifest.format_version == 2
    assert package.manifest.files["content.onnx"].size < 0.4 * 2**20
    assert config.content is not None
    encoder = repzoo.load(out, provider="cpu")
    check_golden(encoder)
    posterior = encoder.posterior(test.images[:20])
    assert posterior.content_mean is not None
    assert report is not None
    assert {row.group for row in report.rows} == {"clean", "fit", "validation", "test"}
    assert len(report.rows) == 1 + 5 * (9 + 2 + 8)
    assert report.uncertainty_auroc is not None
    assert report.former_auroc is not None
    card = (out / "README.md").read_text()
    assert "## Degraded images" in card
    assert "salt-and-pepper" in card
    assert (out / "figures" / "content.png").exists()
    assert (out / "figures" / "steps.png").exists()
    assert config.uncertainty is not None
    assert "content_variance" in config.uncertainty.inputs
    assert config.uncertainty.fitted_on.count("2 degraded copies") == 1
    assert json.loads((out / "metrics.json").read_bytes())["content"]["n_queries"] == 50

    # Another calibration without --degrade keeps the content posterior.
    shutil.rmtree(out / "figures")
    second = tmp_path / "second"
    kept, *_ = calibrate_package(package, second, train, None, VIEWS, progress=False)
    assert kept.content == config.content
    assert (second / "content.onnx").read_bytes() == (out / "content.onnx").read_bytes()


def test_without_labels_the_uncertainty_is_about_the_answers_to_the_undegraded_picture(
    train: ImageDataset, test: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repzoo_training.content.fitting.COPIES", 10_000)
    monkeypatch.setattr("repzoo_training.uncertainty.metrics.RESAMPLES", 20)
    monkeypatch.setattr("repzoo_training.uncertainty.benchmark.CORRUPTED", 50)
    bare, queries = (ImageDataset(each.name, each.images) for each in (train, test))
    config, report, content = calibrate_package(
        Package.open(BUNDLED / "simvae-mnist"),
        tmp_path / "out",
        bare,
        queries,
        VIEWS,
        degrade=FIT,
        progress=False,
    )
    assert content is None  # it needs labels
    assert report is not None
    assert config.uncertainty is not None
    assert config.uncertainty.probability_of.endswith("the same picture, undegraded")
    assert "undegraded" in report.table()

    # Digits that became noisy lose their neighbours, and the uncertainty says so.
    encoder = repzoo.load(tmp_path / "out", provider="cpu", threads=1)
    gallery = torch.from_numpy(encoder.embed(train.images))

    def nearest(images: NDArray[np.uint8], k: int) -> NDArray[np.int64]:
        distance = torch.cdist(torch.from_numpy(encoder.embed(images)), gallery)
        return distance.topk(k, largest=False).indices.numpy()

    expected = nearest(make_views(test, np.arange(len(test)), mild(VIEWS), 1, 0), 10)
    wrong, told = [], []
    for severity in (0, 2, 4):
        images = degrade(test.images, "noise", severity)
        wrong.append(~(nearest(images, 1) == expected).any(1))
        told.append(encoder.uncertainty(images))
    assert [each.mean() for each in told] == sorted(each.mean() for each in told)
    assert auroc(np.concatenate(told).astype(float), np.concatenate(wrong)) > 0.65


def test_measures_of_a_perfect_posterior(train: ImageDataset) -> None:
    random = np.random.default_rng(0)
    mean, variance = random.normal(size=(2, 500, 3)).astype(np.float32)
    variance = np.exp(variance)
    target = (mean + np.sqrt(variance) * random.normal(size=mean.shape)).astype(np.float32)

    where = Located(mean, mean, variance)
    labels = np.arange(500) // 50
    regions = [
        Region(
            probability=p,
            deviations=float(norm.ppf(0.5 + p / 2)),
            distance=float(chi2.ppf(p, 3)) / 3,
        )
        for p in (0.5, 0.9, 0.99)
    ]
    found = measure(where, target, labels, where, labels, np.ones(3, np.float32), regions)
    np.testing.assert_allclose(found.coverage, (0.5, 0.9, 0.99), atol=0.03)
    np.testing.assert_allclose(found.joint, (0.5, 0.9, 0.99), atol=0.05)
    assert found.predicted_error == pytest.approx(found.real_error, rel=0.2)
