"""Run the packages that this repository ships on real images.

tests/data has no images from data sets that may not be shared. Models trained on such data run on
their own samples, and are checked for copies of training images if ``REPZOO_CELEBA`` names the
folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import repzoo
import repzoo_client
from numpy.typing import NDArray
from PIL import Image
from repzoo.packages.arrays import read_arrays
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Package
from repzoo.runtime.golden import check_golden
from repzoo_training.data import load
from repzoo_training.export.card import render_card
from repzoo_training.export.inputs import own_images
from repzoo_training.export.package import EXAMPLES

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data"
BUNDLED = sorted(path for path in (ROOT / "zoo" / "bundled").iterdir() if path.is_dir())
CONFIGS = {path: ModelConfig.read(path / "config.json") for path in BUNDLED}
PUBLIC = [path for path in BUNDLED if (SAMPLES / CONFIGS[path].training.dataset).is_dir()]
PRIVATE = [path for path in BUNDLED if path not in PUBLIC]


def named(path: Path) -> str:
    return path.name


@pytest.fixture(params=PUBLIC, ids=named)
def package(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(params=[path for path in PUBLIC if CONFIGS[path].has_posterior], ids=named)
def posterior_package(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(params=[path for path in PUBLIC if CONFIGS[path].has_decoder], ids=named)
def decoder_package(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(params=PRIVATE, ids=named)
def private_package(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.mark.parametrize("path", BUNDLED, ids=named)
def test_it_is_whole_small_and_gives_its_golden_outputs(path: Path) -> None:
    opened = Package.open(path)
    opened.verify()
    assert opened.config.name == path.name
    assert opened.size <= 12 * 2**20
    assert check_golden(repzoo.load(path, provider="cpu"))


@pytest.mark.parametrize("path", BUNDLED, ids=named)
def test_its_card_is_rendered_from_the_package(path: Path) -> None:
    """If this fails, run ``python -m repzoo_training.export.rerender zoo/bundled/*``."""
    assert (path / "README.md").read_text() == render_card(path)


def test_all_of_them_together_stay_under_100_mib() -> None:
    assert sum(Package.open(path).size for path in BUNDLED) < 100 * 2**20


def test_faces_are_pulled_and_verified(tmp_path: Path) -> None:
    """Pull from a clone with an empty cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPZOO_")}
    for command in ("pull", "verify"):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("zoo")), command, "simvae-celeba"],
            env={**kept, "REPZOO_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "golden outputs verified" in done.stdout


def test_no_face_of_the_data_is_in_it(private_package: Path) -> None:
    """Golden inputs are the model's own samples, and files of the first sample."""
    encoder = repzoo.load(private_package, provider="cpu")
    golden = read_arrays(private_package / "golden.npz")
    own = own_images(encoder, EXAMPLES)[: len(golden["inputs"])].astype(int)
    assert (
        np.abs(golden["inputs"].astype(int) - own).max() <= 2
    )  # other processors round differently
    assert encoder.config.licence == "other"
    assert "non-commercial" in (private_package / "README.md").read_text()
    figures = {path.stem for path in (private_package / "figures").iterdir()}
    plots = {"uncertainty", "content"}  # they show no images
    assert figures <= {"reconstructions", "samples", "walk", "views"} | plots


@pytest.mark.skipif("REPZOO_CELEBA" not in os.environ, reason="REPZOO_CELEBA names no folder")
def test_no_picture_of_it_is_near_a_training_image(private_package: Path) -> None:
    size = CONFIGS[private_package].input.shape
    train = load(os.environ["REPZOO_CELEBA"], "train", size=size).images
    golden = read_arrays(private_package / "golden.npz")["inputs"]
    originals = train[:: len(train) // 100]

    def nearest(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the RMS difference in grey levels from the nearest training image."""
        flat, rows = images.reshape(len(images), -1).astype(np.float32), len(train)
        table = train.reshape(rows, -1).astype(np.float32)
        squared = (flat**2).sum(1)[:, None] + (table**2).sum(1) - 2 * flat @ table.T
        found: NDArray[np.float32] = np.sqrt(squared.clip(0).min(1) / flat.shape[1])
        return found

    assert nearest(originals).max() < 1  # a copy would be found
    assert nearest(golden).min() > 8
    for figure in ("reconstructions", "samples", "walk"):
        sheet = np.asarray(Image.open(private_package / "figures" / f"{figure}.png").convert("RGB"))
        cells = [
            sheet[top : top + size[0], left : left + size[1]]
            for top in range(2, sheet.shape[0] - size[0], size[0] + 2)
            for left in range(2, sheet.shape[1] - size[1], size[1] + 2)
        ]
        assert nearest(np.stack(cells)).min() > 8, figure


def test_samples_of_faces_are_alike_and_differ(private_package: Path) -> None:
    """Samples differ, but less than noise, and survive a reconstruction."""
    encoder = repzoo.load(private_package)
    has_decoder = encoder.config.has_decoder
    # A model without a decoder is shown the samples of another model of the same data.
    generator = encoder if has_decoder else repzoo.load(private_package.with_name("simvae-celeba"))
    drawn = generator.generate(60, seed=0).images
    assert 0.03 < drawn.std(axis=0).mean() < 0.29  # that of uniform noise
    images = (255 * drawn).round().astype(np.uint8)
    if has_decoder:
        assert encoder.reconstruct(images).error.mean() < 0.6 * drawn.var(axis=0).mean()
    for task in ("gender", "hair-colour"):
        assert len(set(encoder.probe(images, task).labels)) > 1
    answers = encoder.probe(images, "attributes").probabilities
    assert answers.shape == (60, 20)


def test_its_probe_is_as_good_as_its_card_says(package: Path) -> None:
    """Check the accuracy on the test images in tests/data, within four standard errors."""
    encoder = repzoo.load(package)
    sample = load(str(SAMPLES / encoder.config.training.dataset), "test")
    assert sample.labels is not None
    expected = [sample.classes[label] for label in sample.labels]
    predictions = encoder.probe(sample.images, "class")
    accuracy = np.mean([a == b for a, b in zip(predictions.labels, expected, strict=True)])
    measures = json.loads((package / "metrics.json").read_text())["evaluation"]["measures"]
    (stated,) = (m["value"] for m in measures if m["name"] == "linear")
    error = np.sqrt(stated * (1 - stated) / len(expected))
    assert abs(accuracy - stated) < 4 * error


def test_it_reconstructs(decoder_package: Path) -> None:
    encoder = repzoo.load(decoder_package)
    images = load(str(SAMPLES / encoder.config.training.dataset), "test").images[:100]
    error = encoder.reconstruct(images).error.mean()
    # Far better than the mean image, which explains nothing. A decoder trained on a frozen encoder
    # only gets what the encoder keeps.
    scaled = images.astype(np.float32) / 255
    share = 0.6 if encoder.config.has_posterior else 0.9
    assert error < share * np.square(scaled - scaled.mean(0)).mean()


def test_it_is_sure_of_what_it_sees(posterior_package: Path) -> None:
    encoder = repzoo.load(posterior_package)
    images = load(str(SAMPLES / encoder.config.training.dataset), "test").images[:100]
    # The aggregate posterior is wider than each posterior, but in dimensions that the prior has
    # switched off: simvae-cifar10 does not need about 55 of its 128.
    mean, variance, _ = encoder.posterior(images)
    assert (variance.mean(0) < mean.var(0)).sum() >= 0.4 * mean.shape[1]


def test_samples_are_images_of_its_kind(decoder_package: Path) -> None:
    """Samples are closer to a real image than noise is."""
    encoder = repzoo.load(decoder_package)
    sample = load(str(SAMPLES / encoder.config.training.dataset), "train")
    shown = sample.images[:200]
    real = shown.reshape(len(shown), -1).astype(np.float32) / 255
    drawn = encoder.generate(100, seed=0).images.reshape(100, -1)
    noise = np.random.default_rng(0).random(drawn.shape, np.float32)

    def nearest(rows: NDArray[np.float32]) -> float:
        return float(np.square(rows[:, None] - real[None]).mean(2).min(1).mean())

    # Photographs in the sample are farther apart than digits.
    share = 0.3 if encoder.config.input.channels == 1 else 0.5
    assert nearest(drawn) < share * nearest(noise)


def test_it_knows_what_it_does_not_know(package: Path) -> None:
    """Noise gets a higher uncertainty than real images."""
    encoder = repzoo.load(package)
    images = load(str(SAMPLES / encoder.config.training.dataset), "test").images
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    measured = json.loads((package / "metrics.json").read_text())["uncertainty"]
    uncertainty = encoder.uncertainty(images)
    stated = np.mean([predicted for predicted, _ in measured["reliability"]])
    assert abs(uncertainty.mean() - stated) < 4 * uncertainty.std() / np.sqrt(len(images))
    assert encoder.uncertainty(noise).mean() > uncertainty.mean()


def test_a_server_answers_it(server_process: type, tmp_path: Path) -> None:
    encoder = repzoo.load(ROOT / "zoo" / "bundled" / "simvae-mnist", provider="cpu")
    images = load(str(SAMPLES / "mnist"), "test").images[:30]
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
