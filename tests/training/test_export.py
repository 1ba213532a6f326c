"""Exported packages: what is in them, and what must not be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import repzoo
import yaml
from repzoo.arrays import read_arrays
from repzoo.errors import PackageError
from repzoo.package import Package
from repzoo_training.data import ImageDataset, load
from repzoo_training.export import export_run
from repzoo_training.export.prior import fit_mixture
from repzoo_training.recipe import Recipe, find_recipe, override
from repzoo_training.trained import TrainedModel
from repzoo_training.trainer import train

DATA = Path(__file__).parents[1] / "data"


def small(name: str, *settings: str) -> Recipe:
    tiny = ("images_per_step=8", "views_per_image=4", "views=960", "precision=float32")
    return override(find_recipe(name), (*tiny, *settings))


@pytest.fixture(scope="module")
def mnist() -> tuple[ImageDataset, ImageDataset]:
    train_set, test_set = (load(str(DATA / "mnist"), s, progress=False) for s in ("train", "test"))
    return train_set, test_set


@pytest.fixture(scope="module")
def run(mnist: tuple[ImageDataset, ImageDataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = small("simvae-mnist", "network.widths=[256,64]")
    path = tmp_path_factory.mktemp("run")
    return train(recipe, mnist[0], path, progress=False).path


@pytest.fixture(scope="module")
def package(
    run: Path, mnist: tuple[ImageDataset, ImageDataset], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("packages") / "simvae-mnist"
    export_run(run, out, *mnist, progress=False)
    return out


def test_a_package_has_every_file_of_the_format(package: Path) -> None:
    opened = Package.open(package)
    opened.verify()
    assert set(opened.manifest.files) == {
        "README.md",
        "config.json",
        "decoder.onnx",
        "encoder.onnx",
        "figures/reconstructions.png",
        "figures/samples.png",
        "golden.npz",
        "metrics.json",
        "prior.npz",
        "probes/class.linear.onnx",
        "probes/class.mlp.onnx",
    }
    assert repzoo.load(package).probe(np.zeros((1, 28, 28, 1), np.uint8), "class").labels


def test_the_graphs_equal_torch(
    package: Path, run: Path, mnist: tuple[ImageDataset, ImageDataset]
) -> None:
    encoder, model = repzoo.load(package), TrainedModel(run)
    images = np.concatenate([mnist[1].images[:100], 255 - mnist[1].images[:100]])
    mean, log_variance = model.posterior(images)
    posterior = encoder.posterior(images)
    np.testing.assert_allclose(posterior.mean, mean, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.log(posterior.variance), log_variance, rtol=0, atol=1e-4)
    ours, torchs = encoder.reconstruct(images), model.reconstruct(images)
    np.testing.assert_allclose(ours.images, torchs.images, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.error, torchs.error, rtol=0, atol=1e-5)


def test_half_precision_halves_the_weights_and_states_its_parity(
    package: Path, run: Path, mnist: tuple[ImageDataset, ImageDataset], tmp_path: Path
) -> None:
    config = export_run(run, tmp_path / "half", *mnist, half=True, progress=False)
    assert config.precision == "float16"
    for graph in ("encoder.onnx", "decoder.onnx"):
        assert (tmp_path / "half" / graph).stat().st_size < 0.6 * (package / graph).stat().st_size
    parity = json.loads((tmp_path / "half" / "metrics.json").read_text())["onnx_against_torch"]
    assert 0 < parity["embedding_relative"] < 0.05
    encoder = repzoo.load(tmp_path / "half")
    assert encoder.embed(mnist[1].images[:2]).dtype == np.float32


def test_nothing_of_the_machine_is_in_a_package(package: Path, run: Path) -> None:
    for file in package.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for place in (str(DATA), str(run), str(Path(__file__).parents[2])):
                assert place.encode() not in content, file


def test_graphs_use_standard_operators_and_hold_their_own_weights(package: Path) -> None:
    for graph in package.rglob("*.onnx"):
        model = onnx.load(graph, load_external_data=False)
        assert {o.domain for o in model.opset_import if o.domain} <= {""}
        assert not [w.name for w in model.graph.initializer if w.external_data]


def test_the_card_says_what_was_measured(package: Path) -> None:
    card = (package / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    measures = json.loads((package / "metrics.json").read_text())["evaluation"]["measures"]
    (entry,) = front["model-index"]
    values = {m["name"]: m["value"] for r in entry["results"] for m in r["metrics"]}
    for measure in measures:
        if measure["unit"] == "accuracy":
            assert values[measure["name"]] == round(100 * measure["value"], 2)
            assert f"{100 * measure['value']:.2f}" in card
    assert front["license"] == "apache-2.0"


def test_a_vae_has_a_standard_normal_prior(
    mnist: tuple[ImageDataset, ImageDataset], tmp_path: Path
) -> None:
    recipe = small("vae-mnist", "network.widths=[64,32]")
    run = train(recipe, mnist[0], tmp_path / "run", progress=False)
    export_run(run.path, tmp_path / "vae", *mnist, progress=False)
    prior = read_arrays(tmp_path / "vae" / "prior.npz")
    assert prior["means"].shape == (1, 10)
    assert (prior["means"] == 0).all()
    assert (prior["scales"] == 1).all()


def test_images_that_may_not_be_passed_on_stay_out(tmp_path: Path) -> None:
    """CIFAR-10 stands in for private photos: no row of it is in golden inputs or figures."""
    photos = load(str(DATA / "cifar10"), "train", progress=False)
    recipe = small("simvae-images-32", "network.widths=[64,32]")
    assert not recipe.share_images
    unlabelled = ImageDataset("photos", photos.images)
    run = train(recipe, unlabelled, tmp_path / "run", progress=False)
    export_run(run.path, tmp_path / "package", unlabelled, None, name="mine", progress=False)
    golden = read_arrays(tmp_path / "package" / "golden.npz")
    shown = [golden["inputs"], *(v[None] for k, v in golden.items() if k.endswith(".pixels"))]
    rows = np.concatenate(shown).astype(int)
    distances = np.abs(rows[:, None] - photos.images[None]).mean((2, 3, 4))
    assert distances.min() > 8
    card = (tmp_path / "package" / "README.md").read_text()
    assert "no test split" in card
    assert "Samples of the model itself" in card
    assert repzoo.load(tmp_path / "package").config.probes == ()


def test_an_export_appears_whole_or_not_at_all(
    run: Path, mnist: tuple[ImageDataset, ImageDataset], tmp_path: Path
) -> None:
    other = ImageDataset("mnist", mnist[0].images[1:])
    with pytest.raises(PackageError, match="other images"):
        export_run(run, tmp_path / "package", other, None, progress=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PackageError, match="cannot name a model"):
        export_run(run, tmp_path / "package", *mnist, name="My Model", progress=False)
    (tmp_path / "package").mkdir()
    with pytest.raises(PackageError, match="exists already"):
        export_run(run, tmp_path / "package", *mnist, progress=False)


def test_a_mixture_finds_its_components() -> None:
    random = np.random.default_rng(0)
    centers = np.array([[-5, 0], [5, 5]], np.float32)
    mean = centers[random.integers(0, 2, 150)] + random.normal(0, 0.1, (150, 2)).astype(np.float32)
    weights, means, scales = fit_mixture(mean, np.full_like(mean, np.log(0.25)), seed=0)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert len(weights) == 3
    nearest = np.abs(centers[:, None] - means[None]).sum(2).min(1)
    assert nearest.max() < 0.7
    # The posterior's own spread is part of the aggregate posterior.
    mixture_variance = weights @ (scales**2 + means**2) - (weights @ means) ** 2
    np.testing.assert_allclose(mixture_variance, mean.var(0) + 0.25, rtol=0.3)
