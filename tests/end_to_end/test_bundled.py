"""The packages that this repository ships, run on real images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import repzoo
import repzoo_client
from repzoo.golden import check_golden
from repzoo.package import Package
from repzoo_training.data import load

ROOT = Path(__file__).parents[2]
BUNDLED = sorted(path for path in (ROOT / "zoo" / "bundled").iterdir() if path.is_dir())


@pytest.fixture(params=BUNDLED, ids=lambda path: path.name)
def package(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_it_is_whole_small_and_gives_its_golden_outputs(package: Path) -> None:
    opened = Package.open(package)
    opened.verify()
    assert opened.size <= 12 * 2**20
    assert check_golden(repzoo.load(package, provider="cpu"))


def test_its_probe_is_as_good_as_its_card_says(package: Path) -> None:
    """On the sample of test images in tests/data, within four standard errors of the sample."""
    encoder = repzoo.load(package)
    sample = load(str(ROOT / "tests" / "data" / encoder.config.training.dataset), "test")
    assert sample.labels is not None
    expected = [sample.classes[label] for label in sample.labels]
    predictions = encoder.probe(sample.images, "class")
    accuracy = np.mean([a == b for a, b in zip(predictions.labels, expected, strict=True)])
    measures = json.loads((package / "metrics.json").read_text())["evaluation"]["measures"]
    (stated,) = (m["value"] for m in measures if m["name"] == "linear")
    error = np.sqrt(stated * (1 - stated) / len(expected))
    assert abs(accuracy - stated) < 4 * error


def test_it_reconstructs_and_is_sure_of_what_it_sees(package: Path) -> None:
    encoder = repzoo.load(package)
    images = load(str(ROOT / "tests" / "data" / encoder.config.training.dataset), "test").images[
        :100
    ]
    error = encoder.reconstruct(images).error.mean()
    # Far better than the mean image, which explains nothing of an image.
    scaled = images.astype(np.float32) / 255
    assert error < 0.6 * np.square(scaled - scaled.mean(0)).mean()
    # The aggregate posterior is wider than any one of them.
    mean, variance, _ = encoder.posterior(images)
    assert (variance.mean(0) < mean.var(0)).sum() >= 0.5 * mean.shape[1]


def test_samples_are_images_of_its_kind(package: Path) -> None:
    """Samples embed among the data: nearer to a real image than noise is."""
    encoder = repzoo.load(package)
    sample = load(str(ROOT / "tests" / "data" / encoder.config.training.dataset), "train")
    real = sample.images[:200].reshape(200, -1).astype(np.float32) / 255
    drawn = encoder.generate(100, seed=0).images.reshape(100, -1)
    noise = np.random.default_rng(0).random(drawn.shape, np.float32)

    def nearest(rows: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(np.square(rows[:, None] - real[None]).mean(2).min(1).mean())

    assert nearest(drawn) < 0.3 * nearest(noise)


def test_it_knows_what_it_does_not_know(package: Path) -> None:
    """Noise is unlike any image that it was trained on; the sample is like them."""
    encoder = repzoo.load(package)
    images = load(str(ROOT / "tests" / "data" / encoder.config.training.dataset), "test").images
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    measured = json.loads((package / "metrics.json").read_text())["uncertainty"]
    uncertainty = encoder.uncertainty(images)
    stated = np.mean([predicted for predicted, _ in measured["reliability"]])
    assert abs(uncertainty.mean() - stated) < 4 * uncertainty.std() / np.sqrt(len(images))
    assert encoder.uncertainty(noise).mean() > uncertainty.mean()


def test_a_server_answers_it(server_process: type, tmp_path: Path) -> None:
    encoder = repzoo.load(ROOT / "zoo" / "bundled" / "simvae-mnist", provider="cpu")
    images = load(str(ROOT / "tests" / "data" / "mnist"), "test").images[:30]
    expected = encoder.uncertainty(images)
    log = tmp_path / "log"
    with (
        server_process("--models", "simvae-mnist", "--port", "0", log=log) as server,
        repzoo_client.Client(server.wait_until_ready()) as client,
    ):
        found = client.uncertainty(images, model="simvae-mnist")
        posterior = client.posterior(images, model="simvae-mnist")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(posterior.uncertainty, expected, atol=1e-5)
