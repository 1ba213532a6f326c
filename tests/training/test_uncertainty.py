"""Uncertainty: its parts against independent references, and as a whole on real digits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import repzoo
import torch
from repzoo.packages.config import InputSpec
from repzoo.packages.package import Package, write_manifest
from repzoo.runtime.golden import check_golden
from repzoo_training.data import ImageDataset, load
from repzoo_training.evaluation.knn import Distance
from repzoo_training.export.calibration import calibrate_package
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.uncertainty.benchmark import BASELINES, measure_uncertainty
from repzoo_training.uncertainty.corruptions import CORRUPTIONS, LEVELS, corrupt
from repzoo_training.uncertainty.examples import make_views, neighbours
from repzoo_training.uncertainty.fitting import FittedUncertainty, fit_uncertainty
from repzoo_training.uncertainty.head import (
    OUTSIDE,
    TAIL_SCALE,
    UncertaintyHead,
    components_for,
    mixture_log_density,
)
from repzoo_training.uncertainty.metrics import (
    aurc,
    auroc,
    auroc_interval,
    bootstrap,
    calibration_error,
    gain,
    risk_coverage,
)
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

DATA = Path(__file__).parents[1] / "data"
BUNDLED = Path(__file__).parents[2] / "zoo" / "bundled"
VIEWS = find_recipe("simvae-mnist").augmentation


@pytest.fixture(scope="module")
def train() -> ImageDataset:
    return load(str(DATA / "mnist"), "train", progress=False)


@pytest.fixture(scope="module")
def test() -> ImageDataset:
    return load(str(DATA / "mnist"), "test", progress=False)


@pytest.fixture(scope="module")
def encoder() -> repzoo.Encoder:
    """The digit encoder as it was before calibration."""
    package = Package.open(BUNDLED / "simvae-mnist")
    config = package.config.model_copy(update={"uncertainty": None, "content": None})
    return repzoo.Encoder(package.path, config, provider="cpu", threads=1)


def test_the_density_is_that_of_a_mixture() -> None:
    random = np.random.default_rng(0)
    sample = random.normal(size=(500, 3)) * [1, 5, 0.2] + [0, 40, -3]
    mixture = GaussianMixture(4, covariance_type="diag", random_state=0).fit(sample)
    z = random.normal(size=(20, 3)) * 10
    ours = mixture_log_density(
        *(
            torch.from_numpy(array)
            for array in (z, mixture.weights_, mixture.means_, np.sqrt(mixture.covariances_))
        )
    )
    np.testing.assert_allclose(ours, mixture.score_samples(z), rtol=1e-9)


@pytest.fixture
def head() -> UncertaintyHead:
    """Return a head for 4x4 images with prior N(0, I), whose decoder outputs 0."""
    head = UncertaintyHead(2, 1, (4, 4, 1), classes=0, has_posterior=True)
    for parameter in head.parameters():
        parameter.data.zero_()
    head.calibration.copy_(torch.tensor([1.0, -30.0]))  # no errors in distribution
    head.tails.copy_(torch.tensor([[5.0, 2.0], [-4.0, 0.5], [1.0, 1.0]]))
    return head.requires_grad_(False)


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("dim", [10, 64, 256, 512, 1024])
def test_a_head_is_small_for_any_dimension(dim: int, classes: int) -> None:
    components = min(200, components_for(dim))
    content = {"has_posterior": dim <= 64, "has_content": True}
    head = UncertaintyHead(dim, components, (64, 64, 3), classes=classes, **content)
    assert 2 * sum(each.numel() for each in head.state_dict().values()) < 0.4 * 2**20
    assert head.decoder[0].out_features == 128 or dim > 10  # as wide as it has always been


def outside(t: float) -> float:
    return float(OUTSIDE * (1 - np.exp(-((t / TAIL_SCALE) ** 2))))


def test_far_from_the_distribution_the_tail_decides(head: UncertaintyHead) -> None:
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0], [4.0, 3.0], [1e3, 1e3]])
    blank = torch.zeros(4, 4, 4, 1, dtype=torch.uint8)
    uncertainty = head(z, blank, torch.zeros(4, 2))
    log_density = mixture_log_density(z, head.weights, head.means, head.scales)
    assert uncertainty[:2].max() < 1e-6  # log densities of -1.8 and -4.3: above the threshold
    assert uncertainty[2] == pytest.approx(outside((-5 - float(log_density[2])) / 2), rel=1e-5)
    assert uncertainty[3] == OUTSIDE  # as likely wrong as right
    head.calibration.copy_(torch.tensor([1.0, 0.0]))
    assert head(z, blank, torch.zeros(4, 2))[3] == pytest.approx(1 - 0.5 * (1 - OUTSIDE))


def test_what_the_embedding_does_not_show_is_from_elsewhere(head: UncertaintyHead) -> None:
    images = torch.zeros(4, 4, 4, 1, dtype=torch.uint8)
    images[:, 2:] = torch.tensor([0, 20, 60, 255])[:, None, None, None]  # the lower half
    uncertainty = head(torch.zeros(4, 2), images, torch.zeros(4, 2))
    missed = np.log((np.array([0, 20, 60, 255]) / 255) ** 2 / 2 + 1e-5)  # twice what varies
    expected = [outside(max(0, r + 4) / 0.5) for r in missed]
    np.testing.assert_allclose(uncertainty, expected, atol=1e-5)
    assert expected[1] == 0 < expected[2] < expected[3]
    # The miss exceeds the contrast: log 2 against a threshold of 0.
    head.tails.copy_(torch.tensor([[5.0, 2.0], [9.0, 1.0], [0.0, 0.5]]))
    uncertainty = head(torch.zeros(4, 2), images, torch.zeros(4, 2))
    assert uncertainty[3] == pytest.approx(outside(np.log(2) / 0.5), abs=1e-3)


@pytest.mark.parametrize(("image", "pixels"), [((28, 28, 1), 196), ((64, 48, 3), 16 * 12 * 3)])
def test_a_thumbnail_is_the_mean_of_blocks(image: tuple[int, int, int], pixels: int) -> None:
    head = UncertaintyHead(2, 1, image, classes=3, has_posterior=False)
    images = np.random.default_rng(0).integers(0, 256, (5, *image), dtype=np.uint8)
    thumbnail = head.thumbnail(torch.from_numpy(images)).numpy()
    assert thumbnail.shape == (5, pixels)
    side = image[0] // 14 if image[0] == 28 else 4
    first = images[:, :side, :side, 0].mean((1, 2)) / 255
    np.testing.assert_allclose(thumbnail[:, 0], first, rtol=1e-5)
    np.testing.assert_allclose(thumbnail.mean(), images.mean() / 255, rtol=1e-5)


def test_the_error_is_that_two_labels_differ() -> None:
    torch.manual_seed(0)
    head = UncertaintyHead(3, 2, (8, 8, 3), classes=4, has_posterior=False).requires_grad_(False)
    features = torch.randn(50, 6)
    own, neighbour = head.logits(features)
    assert neighbour is not None
    p, q = own.double().softmax(1).numpy(), neighbour.double().softmax(1).numpy()
    differ = np.array([1 - sum(a * b) for a, b in zip(p, q, strict=True)])
    np.testing.assert_allclose(torch.sigmoid(head.logit(features)), differ, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_scikit_learns_ties_included(seed: int) -> None:
    random = np.random.default_rng(seed)
    score = random.integers(0, 6, 200).astype(float)
    positive = random.random(200) < 0.3
    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score))


def test_the_interval_of_auroc_is_that_of_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    score = random.integers(0, 40, 400).astype(float)
    positive = random.random(400) < score / 40
    ours, plain = auroc_interval(score, positive, 0), bootstrap(auroc, score, positive, seed=0)
    assert ours == pytest.approx(plain)


def test_risk_over_coverage() -> None:
    wrong = np.array([True, False, False, True])
    coverage, risk = risk_coverage(np.array([0.9, 0.1, 0.5, 0.2]), wrong)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert aurc(wrong.astype(float), wrong) < aurc(np.arange(4.0), wrong)


def test_calibration_error() -> None:
    random = np.random.default_rng(0)
    probability = random.random(30_000)
    wrong = random.random(30_000) < probability
    assert calibration_error(probability, wrong) < 0.02
    assert calibration_error(probability / 2, wrong) == pytest.approx(0.25, abs=0.02)


def test_gain_of_abstaining() -> None:
    quality = np.random.default_rng(0).random(1000)
    assert gain(-quality, quality) == pytest.approx(1)
    assert abs(gain(np.random.default_rng(1).random(1000), quality)) < 0.2
    assert gain(quality, quality) < -0.9
    assert np.isnan(gain(quality, np.ones(1000)))


def test_the_interval_covers_and_shrinks() -> None:
    random = np.random.default_rng(0)
    few, many = random.normal(size=50), random.normal(size=5000)
    mean = lambda values: float(values.mean())  # noqa: E731
    assert bootstrap(mean, few).low < bootstrap(mean, few).value < bootstrap(mean, few).high
    wide, narrow = bootstrap(mean, few), bootstrap(mean, many)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 / np.sqrt(5000), rel=0.2)
    # Twenty numbers per image, such as its corruptions, do not count as twenty images.
    assert bootstrap(mean, np.column_stack([few] * 20)) == pytest.approx(bootstrap(mean, few))


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_corruptions_get_worse_and_repeat(kind: str, data: str) -> None:
    images = load(str(DATA / data), "test", progress=False).images[:50]
    levels = [corrupt(images, kind, level) for level in range(LEVELS + 1)]
    assert (levels[0] == images).all()
    for level in levels:
        assert (level.shape, level.dtype) == (images.shape, np.uint8)
    away = [np.square(level.astype(float) - images).mean() for level in levels]
    assert away == sorted(away)
    assert away[1] > 0
    assert (corrupt(images, kind, 3) == levels[3]).all()


def test_an_unknown_corruption_is_refused(test: ImageDataset) -> None:
    with pytest.raises(ValueError, match="blur"):
        corrupt(test.images, "fog", 1)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_nearest_is_never_the_image_itself(distance: Distance) -> None:
    z = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    found = neighbours(z, z, distance, own=np.arange(60))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True) if distance == "cosine" else z
    apart = np.square(unit[:, None] - unit[None]).sum(2)
    np.fill_diagonal(apart, np.inf)
    assert (found == apart.argmin(1)).all()


def test_in_a_gallery_of_others_any_may_be_nearest() -> None:
    gallery = np.eye(4, dtype=np.float32)
    found = neighbours(gallery[[0, 1, 3, 2]] + 0.01, gallery, "euclidean")
    assert found.tolist() == [0, 1, 3, 2]


def test_views_are_other_images_every_time(train: ImageDataset) -> None:
    rows = np.arange(20)
    first, again, other = (make_views(train, rows, VIEWS, 0, number) for number in (0, 0, 1))
    assert first.shape == (20, 28, 28, 1)
    assert (first == again).all()
    assert (first != other).any(axis=(1, 2, 3)).all()


def answers(
    fitted: FittedUncertainty, encoder: repzoo.Encoder, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return uncertainties and embeddings of images."""
    given = {**encoder.outputs(images), "images": images}
    tensors = (torch.from_numpy(given[name]) for name in fitted.spec.inputs)
    probability: np.ndarray = fitted.head(*tensors).numpy().astype(float)
    assert ((probability >= 0) & (probability <= 1)).all()
    return probability, given["embedding"]


def test_it_tells_errors_and_foreign_images(
    encoder: repzoo.Encoder, train: ImageDataset, test: ImageDataset
) -> None:
    fitted = fit_uncertainty(encoder, train, VIEWS, progress=False)
    assert "another label" in fitted.spec.probability_of
    assert train.labels is not None
    assert test.labels is not None
    clean, embedding = answers(fitted, encoder, test.images)
    found = neighbours(embedding, encoder.embed(train.images), "euclidean")
    wrong = train.labels[found] != test.labels
    # 22 errors among 500 digits: a standard error of 0.06.
    assert auroc(clean, wrong) > 0.7
    assert calibration_error(clean, wrong) < 0.04
    clothes = load(str(DATA / "fashion_mnist"), "test", progress=False).images
    foreign, _ = answers(fitted, encoder, clothes)
    assert foreign.mean() > clean.mean() + 0.2
    both = np.concatenate([clean, foreign])
    assert auroc(both, np.arange(len(both)) >= len(clean)) > 0.95


def test_without_labels_it_is_about_views(
    encoder: repzoo.Encoder, train: ImageDataset, test: ImageDataset
) -> None:
    bare = ImageDataset(train.name, train.images)
    fitted = fit_uncertainty(encoder, bare, VIEWS, progress=False)
    assert "another image" in fitted.spec.probability_of
    # Unseen images in a gallery of about the size used for fitting.
    rows = np.arange(len(test))
    one, other = (make_views(test, rows, VIEWS, 1, number) for number in (0, 1))
    gallery = encoder.embed(np.concatenate([train.images[len(test) :], other]))
    own = len(train) - len(test) + rows
    found, embedding = answers(fitted, encoder, one)
    wrong = neighbours(embedding, gallery, "euclidean") != own
    assert 0.2 < wrong.mean() < 0.98
    assert auroc(found, wrong) > 0.6
    assert found.mean() == pytest.approx(wrong.mean(), abs=0.12)


def test_an_encoder_of_colour_without_a_posterior_can_have_one(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    data = load(str(DATA / "cifar10"), "train", progress=False)
    spec = InputSpec(height=32, width=32, channels=3)
    package = make_package(tmp_path, posterior=False, decoder=False, input_spec=spec)
    views = find_recipe("simvae-cifar10-mlp").augmentation
    out = tmp_path / "out"
    config, *_ = calibrate_package(Package.open(package), out, data, None, views, progress=False)
    assert config.uncertainty is not None
    assert config.uncertainty.inputs == ("embedding", "images")
    uncertainty = repzoo.load(out, provider="cpu").uncertainty(data.images[:50])
    assert uncertainty.std() > 1e-3  # it depends on the image


def without_uncertainty(package: Path, out: Path) -> Package:
    """Copy a package as it was before calibration."""
    shutil.copytree(package, out)
    for file in ("uncertainty.onnx", "figures/uncertainty.png"):
        (out / file).unlink()
    config = json.loads((out / "config.json").read_text())
    del config["uncertainty"], config["tolerances"]["uncertainty"]
    (out / "config.json").write_text(json.dumps(config))
    return write_manifest(out)


def test_nothing_to_fit_is_refused(encoder: repzoo.Encoder, train: ImageDataset) -> None:
    few = ImageDataset("few", train.images[:50])
    with pytest.raises(repzoo.InvalidInput, match="needs at least 100"):
        fit_uncertainty(encoder, few, VIEWS, progress=False)
    alike = ImageDataset("alike", train.images[:200], np.zeros(200, np.int64), ("zero",))
    with pytest.raises(repzoo.InvalidInput, match="nothing to learn"):
        fit_uncertainty(encoder, alike, VIEWS, progress=False)


def test_a_package_gets_one_and_keeps_the_rest(
    train: ImageDataset, test: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repzoo_training.uncertainty.metrics.RESAMPLES", 20)
    monkeypatch.setattr("repzoo_training.uncertainty.benchmark.CORRUPTED", 50)
    before = without_uncertainty(BUNDLED / "simvae-mnist", tmp_path / "before")
    out = tmp_path / "first"
    config, report, _ = calibrate_package(before, out, train, test, VIEWS, progress=False)
    after = Package.open(out)
    after.verify()
    changed = {"README.md", "config.json", "golden.npz", "metrics.json"}
    changed |= {"uncertainty.onnx", "figures/uncertainty.png"}
    assert changed <= after.manifest.files.keys()
    same = before.manifest.files.keys() - changed
    assert all(after.manifest.files[file] == before.manifest.files[file] for file in same)

    encoder = repzoo.load(out, provider="cpu")
    check_golden(encoder)
    posterior = encoder.posterior(test.images[:20])
    assert posterior.uncertainty is not None
    assert config.uncertainty is not None
    assert report is not None
    assert [score.name for score in report.scores] == [n for n in BASELINES if n != "ratio"]
    low, high = report.permuted[1:]
    assert low < 0.5 < high
    kept = json.loads((out / "metrics.json").read_text())
    assert kept["uncertainty"]["wrong"] == report.wrong
    assert (
        kept["evaluation"] == json.loads((before.path / "metrics.json").read_text())["evaluation"]
    )
    card = (out / "README.md").read_text()
    assert card.count("## Uncertainty") == 1
    assert "no calibrated" not in card
    assert "## Citation" in card

    # Calibrating again for another gallery replaces the uncertainty.
    second = tmp_path / "second"
    fewer = ImageDataset("mine", train.images[:1000], train.labels[:1000], train.classes)  # type: ignore[index]
    calibrate_package(after, second, fewer, None, VIEWS, progress=False)
    card = (second / "README.md").read_text()
    assert card.count("## Uncertainty") == 1
    assert "1,000 training images of mine, their labels," in card
    assert "no test images" in card
    assert "uncertainty.png" not in card
    with pytest.raises(repzoo.PackageError, match="exists already"):
        calibrate_package(after, second, fewer, None, VIEWS, progress=False)


def test_scores_without_labels_are_refused(train: ImageDataset) -> None:
    from repzoo_training.errors import DataError

    encoder = repzoo.load(BUNDLED / "simvae-mnist", provider="cpu", threads=1)
    with pytest.raises(DataError, match="no labels"):
        measure_uncertainty(encoder, ImageDataset("bare", train.images), train)
