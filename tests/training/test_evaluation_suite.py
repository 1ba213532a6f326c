"""Clustering, style, Fréchet distances and pooled seeds, each against an independent reference."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from repzoo_training.data import ImageDataset, load
from repzoo_training.evaluation import Measure, evaluate_dataset, pool_seeds
from repzoo_training.evaluation.clustering import cluster, match, measure_clusters
from repzoo_training.evaluation.fid import measure_fid
from repzoo_training.evaluation.fid.features import CNNFeatures, InceptionFeatures, extract
from repzoo_training.evaluation.fid.frechet import frechet_distance, frechet_of_features
from repzoo_training.evaluation.report import EvaluationReport
from repzoo_training.evaluation.style import (
    STYLE_VIEWS,
    measure_style,
    r_squared,
    ridge,
    style_views,
)
from repzoo_training.views.views import Views, ViewSpec
from scipy.linalg import sqrtm
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

SAMPLES = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def train() -> ImageDataset:
    return load(SAMPLES / "mnist", progress=False)


@pytest.fixture(scope="module")
def test() -> ImageDataset:
    return load(SAMPLES / "mnist", "test", progress=False)


class Pixels:
    """Every fourth pixel in both directions, which reveals everything about style."""

    def embed(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        return images[:, 2::4, 2::4].reshape(len(images), -1).astype(np.float32) / 255


# Clustering


def blobs(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Three classes far apart on a line, with scales that differ by dimension."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, n)
    z = np.stack([10.0 * y, np.zeros(n)], 1) + random.normal(size=(n, 2))
    return z * [1e3, 1e-3], y


def test_clusters_of_separate_classes_are_the_classes() -> None:
    train_z, train_y = blobs(300, 0)
    test_z, test_y = blobs(200, 1)
    test_y = test_y.copy()
    test_y[:20] = (test_y[:20] + 1) % 3  # a tenth is labelled wrongly
    accuracy, nmi, ari = measure_clusters(train_z, train_y, test_z, test_y, classes=3, task="class")
    assert accuracy.value == pytest.approx(0.9)
    assert accuracy.standard_error == pytest.approx(math.sqrt(0.09 / 200))
    assert (nmi.name, ari.name) == ("gmm_nmi", "gmm_ari")
    clean = measure_clusters(train_z, train_y, *blobs(200, 1), classes=3, task="class")
    assert [m.value for m in clean] == pytest.approx([1, 1, 1])
    assert 0.4 < ari.value < nmi.value + 0.2 < 1.1
    assert ari.standard_error > 0


def test_nmi_and_ari_are_their_definitions() -> None:
    train_z, train_y = blobs(300, 0)
    test_z, test_y = blobs(120, 1)
    test_y = np.random.default_rng(2).permutation(test_y) * (np.arange(120) % 2) + test_y * (
        (np.arange(120) + 1) % 2
    )
    _, nmi, ari = measure_clusters(train_z, train_y, test_z, test_y, classes=3, task="class")
    _, clusters = cluster(train_z, test_z, components=3)
    table = np.array(
        [[np.sum((test_y == i) & (clusters == j)) for j in range(3)] for i in range(3)]
    )
    p = table / table.sum()
    a, b = p.sum(1), p.sum(0)
    information = sum(
        p[i, j] * math.log(p[i, j] / (a[i] * b[j])) for i in range(3) for j in range(3) if p[i, j]
    )
    entropies = [-sum(x * math.log(x) for x in side) for side in (a, b)]
    assert nmi.value == pytest.approx(information / (sum(entropies) / 2))
    together = same = other = 0
    pairs = list(itertools.combinations(range(120), 2))
    for i, j in pairs:
        same += test_y[i] == test_y[j]
        other += clusters[i] == clusters[j]
        together += test_y[i] == test_y[j] and clusters[i] == clusters[j]
    expected = same * other / len(pairs)
    assert ari.value == pytest.approx((together - expected) / ((same + other) / 2 - expected))


def test_matching_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    clusters, labels = random.integers(0, 5, 400), random.integers(0, 5, 400)
    ours = (match(clusters, labels, 5)[clusters] == labels).sum()
    best = max(
        (np.array(order)[clusters] == labels).sum() for order in itertools.permutations(range(5))
    )
    assert ours == best
    # A cluster that never occurs still gets a class of its own.
    assert sorted(match(np.zeros(9, int), np.arange(9) % 3, 3)) == [0, 1, 2]


def test_collapsed_embeddings_cluster_without_complaint() -> None:
    z, y = np.full((60, 4), 0.3, np.float32), np.arange(60) % 3
    accuracy, _, ari = measure_clusters(z, y, z, y, classes=3, task="class")
    assert accuracy.value == pytest.approx(1 / 3)
    assert ari.value == pytest.approx(0)


# Fréchet distances


def gaussian(seed: int, dim: int = 6) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    factor = random.normal(size=(dim, dim))
    return random.normal(size=dim), factor @ factor.T


def test_frechet_distance_is_that_of_scipy() -> None:
    (m1, s1), (m2, s2) = gaussian(0), gaussian(1)
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected)
    assert frechet_distance(m2, s2, m1, s1) == pytest.approx(expected)
    assert frechet_distance(m1, s1, m1, s1) == pytest.approx(0, abs=1e-9)
    # In one dimension it is (m₁ − m₂)² + (σ₁ − σ₂)².
    one = np.ones((1, 1))
    assert frechet_distance(np.zeros(1), 4 * one, np.ones(1), 9 * one) == pytest.approx(2)
    # Without rank
    flat = np.diag([1.0, 0.0])
    assert frechet_distance(np.zeros(2), flat, np.zeros(2), 4 * flat) == pytest.approx(1)


def test_the_error_of_a_frechet_distance_is_the_bootstraps() -> None:
    random = np.random.default_rng(0)
    features = random.gamma(2.0, size=(1500, 4)) @ gaussian(0, 4)[1]
    reference = random.normal(size=(3000, 4)) @ gaussian(1, 4)[1]
    value, error = frechet_of_features(features, reference)
    again = []
    for _ in range(300):
        rows = random.integers(0, len(features), len(features))
        again.append(frechet_of_features(features[rows], reference)[0])
    assert error == pytest.approx(np.std(again), rel=0.15)
    assert value == pytest.approx(np.mean(again), rel=0.05)


class Blurred(Pixels):
    """Reconstructs a blurred image; generates noise, or refuses to."""

    def __init__(self, generates: bool = True) -> None:
        self.generates = generates

    def reconstruct(self, images: NDArray[np.uint8]) -> Any:
        x = images.astype(np.float32) / 255
        blurred = (x + np.roll(x, 1, 1) + np.roll(x, 1, 2) + np.roll(x, -1, 1)) / 4

        class Result:
            images = blurred
            error = ((blurred - x) ** 2).mean((1, 2, 3))

        return Result

    def generate(self, n: int, *, seed: int) -> Any:
        class Result:
            images = np.random.default_rng(seed).random((n, 28, 28, 1), np.float32)

        return Result


def test_fid_orders_real_blurred_and_noise(train: ImageDataset, test: ImageDataset) -> None:
    features = CNNFeatures(train.images, train.labels, steps=60, progress=False)
    real, blurred, noise = measure_fid(
        Blurred(), lambda: features, train.images, test.images, progress=False
    )
    assert [m.name for m in (real, blurred, noise)] == [
        "cnn_fid_real",
        "cnn_fid_reconstructed",
        "cnn_fid_generated",
    ]
    assert 5 * real.value < blurred.value < noise.value
    assert "not Inception" in str(real.protocol["features"])
    assert real.unit == "squared Fréchet distance"
    a, b = (extract(features, d.images, progress=False) for d in (test, train))
    product = np.cov(a.T) @ np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        np.cov(a.T) + np.cov(b.T) - 2 * sqrtm(product).real
    )
    assert real.value == pytest.approx(expected, rel=1e-3)
    # Features are reproducible.
    state = torch.get_rng_state()
    again = CNNFeatures(train.images, train.labels, steps=60, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(extract(again, test.images, progress=False), a)
    # Without reconstructions or samples there is nothing to measure.
    assert measure_fid(Pixels(), lambda: features, train.images, test.images) == ()


def test_features_without_labels_or_with_attributes(train: ImageDataset) -> None:
    assert train.labels is not None
    bits: NDArray[np.bool_] = (train.labels[:, None] >> np.arange(4)) % 2 == 1
    for labels, said in ((None, "random weights"), (bits, "trained")):
        features = CNNFeatures(train.images[:200], labels, steps=3, progress=False)
        assert said in features.description
        assert extract(features, train.images[:3], progress=False).shape == (3, 64)


def test_inception_features(tmp_path: Path, test: ImageDataset) -> None:
    from torchvision.models import inception_v3

    reference = inception_v3(weights=None, transform_input=False, init_weights=False).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    pooled = []
    reference.avgpool.register_forward_hook(lambda *hooked: pooled.append(hooked[2]))
    features = InceptionFeatures(tmp_path / "weights.pth")
    ours = extract(features, test.images[:2], progress=False)
    x = torch.from_numpy(test.images[:2]).permute(0, 3, 1, 2).repeat(1, 3, 1, 1) / 255
    x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        reference((x - 0.5) / 0.5)
    np.testing.assert_allclose(ours, pooled[0].flatten(1).numpy(), rtol=1e-3, atol=1e-4)
    assert "Inception-v3" in features.description
    with pytest.raises(InvalidInput, match="does not hold weights of torchvision's inception_v3"):
        InceptionFeatures(tmp_path / "absent.pth")


# Style


def test_what_was_drawn_is_what_was_done(train: ImageDataset) -> None:
    """Pillow makes the same view from the recorded box and flips."""
    from PIL import Image

    spec = ViewSpec(scale=(0.4, 1.0), ratio=(0.75, 1.3), horizontal_flip=0.5, vertical_flip=0.5)
    images = torch.from_numpy(train.images[:6]).permute(0, 3, 1, 2)
    views, drawn = Views(spec, (28, 28)).draw(images, 3, torch.Generator().manual_seed(0))
    again = Views(spec, (28, 28))(images, 3, torch.Generator().manual_seed(0))
    assert torch.equal(views, again)
    for b, j in itertools.product(range(6), range(3)):
        top, height, left, width, mirrored, upended = (int(part[b, j]) for part in drawn)
        box = (left, top, left + width, top + height)
        image = Image.fromarray(train.images[b, :, :, 0]).crop(box)
        image = image.resize((28, 28), Image.Resampling.BILINEAR)
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if upended:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        assert np.abs(np.asarray(image) - 255 * views[b, j, 0].numpy()).max() <= 1.5
    assert {int(x) for x in drawn.horizontal_flip.flatten()} == {0, 1}
    _, whole = Views(ViewSpec(), (28, 28)).draw(images, 2, torch.Generator())
    assert whole.height.unique().tolist() == [28]
    assert whole.left.shape == (6, 2)
    assert not whole.horizontal_flip.any()


def test_style_is_read_from_pixels_and_not_from_noise(
    train: ImageDataset, test: ImageDataset
) -> None:
    """Pixels reveal crops better than a random embedding."""

    class Nothing:
        def embed(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
            return np.random.default_rng(len(images)).random((len(images), 8), np.float32)

    known, unknown = (
        {(m.task, m.name): m for m in measure_style(who, train.images, test.images, progress=False)}
        for who in (Pixels(), Nothing())
    )
    for key in (("style_position", "linear_fit"), ("style_scale", "linear_fit")):
        assert known[key].value > 0.3
        assert unknown[key].value == pytest.approx(0, abs=0.05)
        assert 0 < known[key].standard_error < 0.1
    assert known["style_flip", "knn_fit"].value > 0.62
    assert unknown["style_flip", "linear_fit"].value == pytest.approx(0.5, abs=0.08)
    assert set(known["style_position", "knn_fit"].by_class or {}) == {"x", "y"}


def test_r_squared_and_its_error() -> None:
    random = np.random.default_rng(0)
    y = random.normal(size=2000)
    guess = 0.7 * y + 0.5 * random.normal(size=2000)
    value, influence = r_squared(y, guess, y.mean())
    assert value == pytest.approx(r2_score(y, guess))
    rows = [random.integers(0, 2000, 2000) for _ in range(300)]
    again = np.std([r2_score(y[r], guess[r]) for r in rows])
    assert influence.std() / math.sqrt(2000) == pytest.approx(again, rel=0.15)
    assert r_squared(np.ones(5), np.zeros(5), 1.0)[0] == 0


def test_ridge_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    z, query = random.normal(size=(90, 5)) * [1, 10, 0.1, 1, 1] + 3, random.normal(size=(20, 5))
    targets = random.normal(size=(90, 2))
    scaler = StandardScaler().fit(z)
    theirs = Ridge(alpha=1.0).fit(scaler.transform(z), targets).predict(scaler.transform(query))
    np.testing.assert_allclose(ridge(z, targets, query), theirs)


def test_targets_of_style_views(train: ImageDataset) -> None:
    views, known = style_views(train.images[:500], seed=0)
    assert views.dtype == np.uint8
    assert views.shape == (500, 28, 28, 1)
    low, high = STYLE_VIEWS.scale
    share = np.exp(known["scale"])
    assert low - 0.05 < share.min() < 0.5 < 0.9 < share.max() <= high
    assert known["x"].mean() == pytest.approx(0.5, abs=0.02)
    assert known["flip"].mean() == pytest.approx(0.5, abs=0.08)


# Choosing and pooling


def test_groups_are_checked(train: ImageDataset) -> None:
    for chosen, said in (
        (["knn", "knm"], "cannot measure 'knm'; choose from knn, linear"),
        ([], "cannot measure nothing"),
        (["decoder"], "needs a run"),
        (["inception"], "needs a file with the weights of Inception-v3"),
    ):
        with pytest.raises(InvalidInput, match=said):
            evaluate_dataset(Pixels(), train, train, measures=chosen)  # type: ignore[arg-type]


def report(seed: int | None, value: float, **changes: Any) -> EvaluationReport:
    measure = Measure(
        name="linear",
        task="class",
        value=value,
        standard_error=0.5,
        n=100,
        unit="accuracy",
        protocol={"l2": 1.0},
        by_class={"a": value},
    )
    fields = {"dataset": "mnist", "n_train": 10, "n_test": 100, "dim": 4, "method": "vae"}
    return EvaluationReport(**{**fields, "measures": (measure,), "seed": seed, **changes})


def test_seeds_are_pooled() -> None:
    values = [0.9, 0.92, 0.97]
    pooled = pool_seeds([report(seed, value) for seed, value in enumerate(values)])
    (measure,) = pooled.measures
    assert measure.value == pytest.approx(np.mean(values))
    deviation = math.sqrt(sum((v - np.mean(values)) ** 2 for v in values) / 2)
    assert measure.standard_error == pytest.approx(deviation / math.sqrt(3))
    assert measure.by_class == pytest.approx({"a": np.mean(values)})
    assert measure.protocol["standard error"] == "over 3 seeds"
    assert (pooled.seed, pooled.seeds) == (None, (0, 1, 2))
    single = report(0, 0.9)
    assert pool_seeds([single]) is single


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([], "no reports"),
        ([report(0, 0.9), report(0, 0.9)], "different seeds"),
        ([report(0, 0.9), report(None, 0.9)], "different seeds"),
        ([report(0, 0.9), report(1, 0.9, dim=5)], "differ in dim: 4, 5"),
        ([report(0, 0.9), report(1, 0.9, method="simvae")], "differ in method"),
    ],
)
def test_reports_that_do_not_pool(others: list[EvaluationReport], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        pool_seeds(others)
