"""Exported packages: their contents, and what must not be in them."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import repzoo
import repzoo_client
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from repzoo.errors import PackageError, UnsupportedOperation
from repzoo.packages.arrays import read_arrays
from repzoo.packages.package import Package
from repzoo.runtime.golden import check_golden
from repzoo.runtime.prior import Prior
from repzoo_training.data import ImageDataset, load
from repzoo_training.export import export_run
from repzoo_training.export.card import render_card
from repzoo_training.export.pictures import draw_neighbours
from repzoo_training.export.rerender import redraw_views, refit_prior
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.loop.trainer import train
from repzoo_training.prior import fit_mixture, write_prior
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe

DATA = Path(__file__).parents[1] / "data"


def small(name: str, *settings: str) -> Recipe:
    tiny = ("images_per_step=8", "views_per_image=4", "views=960", "precision=float32")
    return override(find_recipe(name), (*tiny, *settings))


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Run each package only once before its first load."""


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
        "figures/views.png",
        "figures/walk.png",
        "golden.npz",
        "metrics.json",
        "prior.npz",
        "probes/class.linear.onnx",
        "probes/class.mlp.onnx",
    }
    assert repzoo.load(package).probe(np.zeros((1, 28, 28, 1), np.uint8), "class").labels


def test_new_views_can_be_drawn_again(package: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(package, tmp_path / "copy")
    assert "![views](figures/views.png)" in (copy / "README.md").read_text()
    drawn = (copy / "figures" / "views.png").read_bytes()
    for file in ("README.md", "figures/views.png"):
        (copy / file).unlink()
    command = [sys.executable, "-m", "repzoo_training.export.rerender", "--views", str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    assert (copy / "figures" / "views.png").read_bytes() == drawn
    assert Package.open(copy).revision == Package.open(package).revision
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.size == ((3 + 8) * 58 + 2 * 2 + 16, 8 * 58 + 2)
    metrics = json.loads((copy / "metrics.json").read_bytes())
    metrics["training"]["recipe"]["method"] = "vae"
    (copy / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(PackageError, match="was not trained with SimVAE"):
        redraw_views(copy)


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
    config = export_run(run, tmp_path / "half", mnist[0], None, precision="float16", progress=False)
    assert config.precision == "float16"
    for graph in ("encoder.onnx", "decoder.onnx"):
        assert (tmp_path / "half" / graph).stat().st_size < 0.6 * (package / graph).stat().st_size
    parity = json.loads((tmp_path / "half" / "metrics.json").read_text())["onnx_against_torch"]
    assert 0 < parity["embedding_relative"] < 0.05
    encoder = repzoo.load(tmp_path / "half")
    assert encoder.embed(mnist[1].images[:2]).dtype == np.float32


def test_integers_quarter_the_encoder_and_keep_its_neighbours(
    package: Path, run: Path, mnist: tuple[ImageDataset, ImageDataset], tmp_path: Path
) -> None:
    out = tmp_path / "small"
    config = export_run(run, out, *mnist, name="small", precision="int8", progress=False)
    assert config.precision == "int8"
    Package.open(out).verify()
    for graph, share in (("encoder.onnx", 0.3), ("decoder.onnx", 0.6)):
        assert (out / graph).stat().st_size < share * (package / graph).stat().st_size
    small, whole = repzoo.load(out, provider="cpu"), repzoo.load(package, provider="cpu")
    check_golden(small)
    gallery, queries = mnist[0].images, mnist[1].images
    nearest = [
        np.linalg.norm(each.embed(queries)[:, None] - each.embed(gallery), axis=2).argmin(1)
        for each in (small, whole)
    ]
    # Embeddings of such a short training are close together.
    assert np.mean(mnist[0].labels[nearest[0]] == mnist[0].labels[nearest[1]]) > 0.9
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0.001 < metrics["onnx_against_torch"]["embedding_relative"] < 0.5
    assert "int8" in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def point_run(
    mnist: tuple[ImageDataset, ImageDataset], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a run of a method without a posterior."""
    recipe = small("simclr-mnist", "network.widths=[128,64]", "images_per_step=64", "views=9600")
    path = tmp_path_factory.mktemp("point") / "run"
    return train(recipe, mnist[0], path, progress=False).path


@pytest.fixture(scope="module")
def point_package(
    point_run: Path,
    mnist: tuple[ImageDataset, ImageDataset],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("packages") / "point"
    export_run(point_run, out, *mnist, name="point", progress=False)
    return out


def test_an_encoder_without_posterior_has_one_output_and_no_decoder(
    point_package: Path, point_run: Path, mnist: tuple[ImageDataset, ImageDataset]
) -> None:
    opened = Package.open(point_package)
    opened.verify()
    assert set(opened.manifest.files) == {
        "README.md",
        "config.json",
        "encoder.onnx",
        "figures/neighbours.png",
        "golden.npz",
        "metrics.json",
        "probes/class.linear.onnx",
        "probes/class.mlp.onnx",
    }
    config = opened.config
    assert config.outputs == ("embedding",)
    assert (config.has_posterior, config.has_decoder, config.likelihood) == (False, False, None)
    assert config.metric == "cosine"
    (graph,) = (onnx.load(point_package / "encoder.onnx").graph,)
    assert [output.name for output in graph.output] == ["embedding"]

    encoder, model = repzoo.load(point_package), TrainedModel(point_run)
    images = mnist[1].images[:50]
    np.testing.assert_allclose(encoder.embed(images), model.embed(images), rtol=0, atol=1e-4)
    assert check_golden(encoder)
    for refused in (encoder.posterior, encoder.reconstruct):
        with pytest.raises(UnsupportedOperation):
            refused(images)
    with pytest.raises(UnsupportedOperation):
        encoder.generate()


def test_the_card_of_an_encoder_without_posterior_promises_none(point_package: Path) -> None:
    card = (point_package / "README.md").read_text()
    assert "| Method | SimCLR (contrastive)" in card
    assert "before any projection head" in card
    assert "RankMe" in card
    assert "neighbours.png" in card
    for word in (
        "likelihood",
        "posterior",
        "mirror",
        "generate",
        "reconstructions",
        "its variance",
    ):
        assert word not in card, word


def test_a_decoder_can_be_trained_on_a_frozen_encoder(
    point_run: Path, mnist: tuple[ImageDataset, ImageDataset], tmp_path: Path
) -> None:
    before = TrainedModel(point_run).embed(mnist[1].images[:20])
    out = tmp_path / "decoded"
    config = export_run(point_run, out, mnist[0], None, decoder=True, progress=False)
    assert (config.has_posterior, config.has_decoder, config.likelihood) == (False, True, None)
    Package.open(out).verify()
    encoder = repzoo.load(out)
    np.testing.assert_allclose(encoder.embed(mnist[1].images[:20]), before, rtol=0, atol=1e-4)
    # Better than the mean image, which knows nothing about an image.
    scaled = mnist[1].images / np.float32(255)
    assert encoder.reconstruct(mnist[1].images).error.mean() < 0.85 * scaled.var(0).mean()
    assert encoder.generate(3, seed=0).images.shape == (3, 28, 28, 1)
    # Latents are drawn from the region of the embeddings.
    drawn, real = encoder.sample(500, seed=0), encoder.embed(mnist[0].images)
    assert (np.abs(drawn.mean(0) - real.mean(0)) < 0.3 * real.std(0)).all()
    card = (out / "README.md").read_text()
    assert "trained on the frozen encoder" in card
    assert "likelihood" not in card
    with pytest.raises(PackageError, match="exists already"):
        export_run(point_run, out, *mnist, decoder=True, progress=False)


def test_no_second_decoder_beside_a_methods_own(
    run: Path, mnist: tuple[ImageDataset, ImageDataset], tmp_path: Path
) -> None:
    with pytest.raises(PackageError, match="decoder of its own"):
        export_run(run, tmp_path / "package", *mnist, decoder=True, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_served_encoder_without_posterior_says_so(
    point_package: Path,
    mnist: tuple[ImageDataset, ImageDataset],
    server_process: type,
    tmp_path: Path,
) -> None:
    verified = subprocess.run(
        [sys.executable, "-c", "from repzoo.cli import main; main()", "verify", point_package],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "point" in verified.stdout
    log, images = tmp_path / "log", mnist[1].images[:4]
    with server_process("--models", str(point_package), "--port", "0", log=log) as server:
        url = server.wait_until_ready()
        with repzoo_client.Client(url) as client:
            served = client.embed(images, model="point")
            expected = repzoo.load(point_package).embed(images)
            np.testing.assert_allclose(served, expected, rtol=0, atol=1e-4)
            assert len(client.probe(images, model="point", task="class").labels) == 4
            for refused in (client.posterior, client.reconstruct):
                with pytest.raises(repzoo_client.UnsupportedOperation) as caught:
                    refused(images, model="point")
                assert caught.value.status == 409


def test_neighbours_of_another_class_have_a_red_frame(point_package: Path, tmp_path: Path) -> None:
    """Queries from the training images are their own neighbours under any encoder."""
    encoder = repzoo.load(point_package)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (10, 28, 28, 1), dtype=np.uint8)
    labels = np.arange(10)
    train_set = ImageDataset("noise", images, labels)
    wrong = ImageDataset("noise", images, np.where(labels == 3, 4, labels))
    reds = []
    for name, queries in (("right", train_set), ("wrong", wrong)):
        (tmp_path / name).mkdir()
        draw_neighbours(tmp_path / name, encoder, train_set, encoder.embed(images), queries)
        picture = np.asarray(Image.open(tmp_path / name / "neighbours.png").convert("RGB")).astype(
            int
        )
        top = picture[2 + 56 + 2 + 8 : 2 + 56 + 2 + 8 + 56, 2:]  # the nearest of each query
        cells = [top[:, 58 * i : 58 * i + 56] for i in range(10)]
        reds.append([bool((c[:2, :, 0] - c[:2, :, 1] > 150).all()) for c in cells])
    assert reds == [[False] * 10, [i == 3 for i in range(10)]]


def test_an_encoder_of_private_images_has_no_picture_of_them(tmp_path: Path) -> None:
    photos = load(str(DATA / "cifar10"), "train", progress=False)
    recipe = small("simvae-images-32", "network.widths=[64,32]", "method=simclr", "options={}")
    unlabelled = ImageDataset("photos", photos.images)
    run = train(recipe, unlabelled, tmp_path / "run", progress=False)
    out = tmp_path / "package"
    export_run(run.path, out, unlabelled, unlabelled, name="mine", progress=False)
    assert not (out / "figures").exists()
    assert "## Figures" not in (out / "README.md").read_text()
    golden = read_arrays(out / "golden.npz")
    rows = golden["inputs"].astype(int)
    distances = np.abs(rows[:, None] - photos.images[None]).mean((2, 3, 4))
    assert distances.min() > 8
    assert (
        repzoo.load(out).config.likelihood is None
    )  # training did not use the likelihood of the recipe


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
    values = {
        (r["task"]["name"], m["name"]): m["value"] for r in entry["results"] for m in r["metrics"]
    }
    for measure in measures:
        if measure["unit"] == "accuracy" and measure["name"] != "majority":
            assert values[measure["task"], measure["name"]] == round(100 * measure["value"], 2)
            assert f"{100 * measure['value']:.2f}" in card
    assert front["license"] == "apache-2.0"


def test_the_hub_reads_the_numbers_of_the_card(package: Path) -> None:
    """huggingface_hub reads the measured numbers from the card."""
    card = ModelCard.load(package / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "repzoo"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.datasets == ["ylecun/mnist"]
    assert {"onnx", "simvae", "posterior", "arxiv:2402.01399"} <= set(card.data.tags)
    assert card.data.model_name == "simvae-mnist"

    measures = json.loads((package / "metrics.json").read_text())["evaluation"]["measures"]
    measured = {(m["task"], m["name"]): m for m in measures if m["name"] != "majority"}
    assert len(card.data.eval_results) == len(measured) > 4
    for result in card.data.eval_results:
        task = None if result.task_name == "representation" else result.task_name
        measure = measured[task, result.metric_name]
        scale, digits = (100, 2) if measure["unit"] == "accuracy" else (1, 6)
        assert result.metric_value == round(scale * measure["value"], digits)
        assert result.metric_args == measure["protocol"]
        assert (result.dataset_type, result.dataset_split) == ("ylecun/mnist", "test")
    assert set(card.data.metrics) == {result.metric_type for result in card.data.eval_results}
    # The numbers survive a round trip.
    again = ModelCard(str(card)).data.eval_results
    numbers = [
        sorted((each.metric_name, each.metric_value, str(each.metric_args)) for each in results)
        for results in (again, card.data.eval_results)
    ]
    assert numbers[0] == numbers[1]


def test_the_card_links_what_is_there_and_says_how_to_pin(package: Path) -> None:
    card = (package / "README.md").read_text()
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", card)
    assert links
    for link in links:
        assert (package / link).is_file()
    assert '`repzoo.load("simvae-mnist@sha256:REVISION")`' in card
    assert "| Network | mlp, widths 256-64, linear head; the decoder is its mirror |" in card


@pytest.mark.slow
def test_every_method_samples_from_a_fitted_mixture(
    mnist: tuple[ImageDataset, ImageDataset], tmp_path: Path
) -> None:
    recipe = small("vae-mnist", "network.widths=[64,32]")
    run = train(recipe, mnist[0], tmp_path / "run", progress=False)
    vae = tmp_path / "vae"
    export_run(run.path, vae, *mnist, measures=("reconstruction",), progress=False)
    prior = read_arrays(vae / "prior.npz")
    assert prior["means"].shape == (len(mnist[0]) // 50, 10)
    assert not (vae / "figures" / "views.png").exists()

    # A package of an older version has N(0, I) instead, and can be given the mixture.
    samples = (vae / "figures" / "samples.png").read_bytes()
    metrics = json.loads((vae / "metrics.json").read_bytes())
    measures = metrics["evaluation"]["measures"]
    measures.append({**measures[0], "name": "cnn_fid_generated", "value": 0.0})
    (vae / "metrics.json").write_text(json.dumps(metrics))
    one = np.ones(1, np.float32)
    write_prior(
        vae / "prior.npz", Prior(one, np.zeros((1, 10), np.float32), np.ones((1, 10), np.float32))
    )
    (vae / "figures" / "samples.png").unlink()
    refit_prior(vae, str(DATA / "mnist"), progress=False)
    for name, values in read_arrays(vae / "prior.npz").items():
        np.testing.assert_array_equal(values, prior[name])
    assert (vae / "figures" / "samples.png").read_bytes() == samples
    metrics = json.loads((vae / "metrics.json").read_bytes())
    *others, fid = metrics["evaluation"]["measures"]
    assert others == measures[:-1]
    assert fid["value"] > 0
    assert fid["unit"] == "squared Fréchet distance"
    with pytest.raises(PackageError, match="was not trained on the images"):
        refit_prior(vae, str(DATA / "fashion_mnist"), progress=False)


def test_images_that_may_not_be_passed_on_stay_out(tmp_path: Path) -> None:
    """With CIFAR-10 as private photos, golden inputs and figures contain none of its images."""
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


def photos(count: int, labels: list[int] | None, classes: tuple[str, ...] = ()) -> ImageDataset:
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    return ImageDataset("photos", images, None if labels is None else np.array(labels), classes)


@pytest.mark.parametrize(
    ("splits", "measured"),
    [
        ((photos(1, None), None), None),
        ((photos(1, None), photos(1, None)), set()),
        ((photos(1, [0], ("a",)), photos(1, [0], ("a",))), set()),
        ((photos(3, [0, 1, 0], ("a", "b")), photos(2, [0, 1], ("a", "b"))), {"knn", "gmm"}),
        ((photos(2, [0, 1], ("a", "b", "c")), photos(2, [0, 2], ("a", "b", "c"))), {"knn"}),
    ],
    ids=["one image", "one image each", "one class", "fewer images than k", "than classes"],
)
@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_run_of_few_images_is_exported(
    splits: tuple[ImageDataset, ImageDataset | None], measured: set[str] | None, tmp_path: Path
) -> None:
    tiny = ("images_per_step=1", "views_per_image=2", "views=4", "network.widths=[16,8]")
    recipe = override(find_recipe("simvae-mnist"), (*tiny, "precision=float32"))
    run = train(recipe, splits[0], tmp_path / "run", progress=False)
    out = tmp_path / "package"
    export_run(run.path, out, *splits, name="mine", progress=False)
    Package.open(out).verify()
    assert check_golden(repzoo.load(out, provider="cpu"))
    assert repzoo.load(out).generate(2, seed=0).images.shape == (2, 28, 28, 1)
    report = json.loads((out / "metrics.json").read_text())["evaluation"]
    if measured is None:
        assert report is None
        return
    names = {m["name"].split("_")[0] for m in report["measures"]} & {"knn", "gmm"}
    of_classes = {m["name"] for m in report["measures"] if m["task"] == "class"}
    assert {name.split("_")[0] for name in of_classes} & {"knn", "gmm"} == measured, names
    for measure in report["measures"]:
        if measure["name"].startswith("knn_c"):
            assert measure["protocol"]["k"] == len(splits[0])


def test_the_snippet_on_the_card_runs_without_repzoo(
    package: Path, mnist: tuple[ImageDataset, ImageDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (package / "README.md").read_text()
    _, plain = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "repzoo" not in plain
    monkeypatch.chdir(package)
    Image.fromarray(mnist[1].images[0, ..., 0]).save(package / "image.png")
    try:
        values: dict[str, np.ndarray] = {}
        exec(plain, values)
    finally:
        (package / "image.png").unlink()
    expected = repzoo.load(package, provider="cpu").posterior(mnist[1].images[:1])
    np.testing.assert_allclose(values["embedding"], expected.mean, atol=1e-5)
    np.testing.assert_allclose(np.exp(values["log_variance"]), expected.variance, rtol=1e-4)


def test_the_card_counts_parameters_and_flops(package: Path, run: Path) -> None:
    model = TrainedModel(run)
    assert model.decoder is not None
    card = (package / "README.md").read_text()
    parameters = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    products = {
        "encoder": 784 * 256 + 256 * 64 + 64 * 20,
        "decoder": 10 * 64 + 64 * 256 + 256 * 784,
    }
    assert (
        f"| Parameters | encoder {parameters['encoder'] / 1e3:.3g} k, "
        f"decoder {parameters['decoder'] / 1e3:.3g} k |"
    ) in card
    assert (
        f"| Compute | encoder {2 * products['encoder'] / 1e3:.3g} kFLOP per image, "
        f"decoder {2 * products['decoder'] / 1e3:.3g} kFLOP per image |"
    ) in card
    assert "uint8 `[N, 28, 28, 1]`, channels last, grey" in card
    assert "scale to cover 28×28 and crop the centre; bilinear filter" in card


def test_the_card_needs_the_package_alone(package: Path, tmp_path: Path) -> None:
    """Rendering again changes nothing; a package of an older version has a card as well."""
    card = (package / "README.md").read_text()
    assert render_card(package) == card
    older = shutil.copytree(package, tmp_path / "older")
    metrics = json.loads((older / "metrics.json").read_text())
    del metrics["training"]
    (older / "metrics.json").write_text(json.dumps(metrics))
    assert "| Method | SimVAE (generative) |" in render_card(older)
    (older / "metrics.json").unlink()
    assert "There was no test split" in render_card(older)
    config = json.loads((older / "config.json").read_text())
    imported = {**config, "schema_version": 2, "training": None, "source": "timm/resnet18"}
    (older / "config.json").write_text(json.dumps(imported))
    assert "| Source | timm/resnet18 |" in render_card(older)


def test_an_export_appears_whole_or_not_at_all(
    run: Path, mnist: tuple[ImageDataset, ImageDataset], tmp_path: Path
) -> None:
    other = ImageDataset("mnist", mnist[0].images[1:])
    with pytest.raises(PackageError, match="was not trained on the images of mnist"):
        export_run(run, tmp_path / "package", other, None, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
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
    # The aggregate posterior includes the spread of each posterior.
    mixture_variance = weights @ (scales**2 + means**2) - (weights @ means) ** 2
    np.testing.assert_allclose(mixture_variance, mean.var(0) + 0.25, rtol=0.3)
