"""Uncertainty without labels, measured on real digits as the event that it predicts."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import repzoo
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from repzoo.packages.config import UncertaintySpec
from repzoo.packages.package import Package, write_manifest
from repzoo_training.commands.evaluate import evaluate
from repzoo_training.data import ImageDataset, load
from repzoo_training.errors import DataError
from repzoo_training.export.calibration import calibrate_package
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.uncertainty import ViewsReport, fit_uncertainty, measure_uncertainty
from repzoo_training.uncertainty.questions import ask_of_views
from repzoo_training.uncertainty.report import BASELINES
from repzoo_training.views.views import ViewSpec

DATA = Path(__file__).parents[1] / "data"
BUNDLED = Path(__file__).parents[2] / "zoo" / "bundled"
VIEWS = find_recipe("simvae-mnist").augmentation
SAME = ViewSpec()


@pytest.fixture(autouse=True)
def _fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repzoo_training.uncertainty.metrics.RESAMPLES", 40)
    monkeypatch.setattr("repzoo_training.uncertainty.benchmark.CORRUPTED", 40)
    monkeypatch.setattr("repzoo_training.uncertainty.searches.DRAWS", 5)


def bare(split: str, count: int, attributes: bool = False) -> ImageDataset:
    """Return digits without labels, optionally with the attributes even and odd."""
    full = load(str(DATA / "mnist"), split, progress=False)  # type: ignore[arg-type]
    assert full.labels is not None
    if not attributes:
        return ImageDataset("digits", full.images[:count])
    even = (full.labels[:count] % 2 == 0)[:, None]
    flags = np.concatenate([even, ~even], axis=1)
    return ImageDataset(
        "digits", full.images[:count], attributes=flags, attribute_names=("even", "odd")
    )


class Told(repzoo.Encoder):
    """The bundled digit encoder with an uncertainty given by a function of the image."""

    def __init__(self, says: Callable[[NDArray[np.uint8]], float]) -> None:
        package = Package.open(BUNDLED / "simvae-mnist")
        spec = UncertaintySpec(
            probability_of="the nearest neighbour among views shows another image",
            fitted_on="nothing",
            inputs=("embedding",),
        )
        config = package.config.model_copy(update={"uncertainty": None, "content": None})
        super().__init__(package.path, config, provider="cpu", threads=1)
        self.config = config.model_copy(update={"uncertainty": spec})
        self._says = says

    def uncertainty_of(
        self, outputs: Mapping[str, NDArray[np.float32]], pixels: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        return np.array([self._says(image) for image in pixels], np.float32)


def is_twin(images: NDArray[np.uint8]) -> set[bytes]:
    """Return the images that occur more than once."""
    times = Counter(image.tobytes() for image in images)
    return {image for image, count in times.items() if count > 1}


@pytest.fixture(scope="module")
def half_twins() -> ImageDataset:
    """120 unique test digits, and 80 copies of another one: one view of the copies can be right."""
    images = bare("test", 121).images
    return ImageDataset("twins", np.concatenate([images[:120], np.repeat(images[120:], 80, 0)]))


def test_who_says_the_truth_has_it_all_and_who_guesses_nothing(half_twins: ImageDataset) -> None:
    """If views change nothing, a unique image is found, and one of 80 duplicates is not."""
    train = bare("train", 400)
    twins = is_twin(half_twins.images)
    truth = Told(lambda image: 0.9875 if image.tobytes() in twins else 0.001)
    report = measure_uncertainty(truth, train, half_twins, views=SAME, progress=False)
    assert isinstance(report, ViewsReport)
    assert (report.n_train, report.n_test) == (400, 200)
    assert report.wrong == 79 / 200
    score = report.score("uncertainty")
    assert score is not None
    # The one twin that is found says what the others say.
    assert score.r_auroc.value == pytest.approx(1 - 1 / 121 / 2)
    assert score.gain.value > 0.95
    assert score.calibration_error is not None
    assert score.calibration_error < 0.02
    assert report.chance is not None
    assert report.chance < 0.02  # it is sure of nearly all
    low, high = report.permuted[1:]
    assert low < 0.5 < high
    assert 0.4 < low < high < 0.6

    noise = np.random.default_rng(0)
    guess = measure_uncertainty(
        Told(lambda _: noise.random()), train, half_twins, views=SAME, progress=False
    )
    low, high = guess.score("uncertainty").r_auroc[1:]  # type: ignore[union-attr]
    assert low < 0.5 < high
    liar = Told(lambda image: 0.001 if image.tobytes() in twins else 0.9875)
    report = measure_uncertainty(liar, train, half_twins, views=SAME, progress=False)
    assert report.score("uncertainty").r_auroc.value < 0.02  # type: ignore[union-attr]
    assert report.score("uncertainty").gain.value < 0  # type: ignore[union-attr]


def test_the_gallery_is_as_large_as_it_was_and_has_one_view_of_each_query() -> None:
    train, test = bare("train", 300), bare("test", 60)
    same = ask_of_views(train, test, SAME, 0)
    assert same.kept is not None
    assert len(same.gallery) == len(same.shows) == 300
    assert (same.gallery[:60] == test.images).all()
    assert (same.gallery[60:] == train.images[same.kept]).all()
    assert len(set(same.kept)) == 240
    question = ask_of_views(train, test, VIEWS, 0)
    assert (question.gallery != same.gallery).any(axis=(1, 2, 3)).mean() > 0.98  # some are whole
    assert (ask_of_views(train, test, VIEWS, 0).gallery == question.gallery).all()
    # There are never more queries than gallery entries.
    many = ask_of_views(bare("train", 100), bare("test", 150), SAME, 0)
    assert (len(many.gallery), len(many.queries), many.kept.size) == (100, 100, 0)  # type: ignore[union-attr]


def test_wrong_is_that_another_view_is_nearer() -> None:
    """Compare with distances that are computed one by one."""
    train, test = bare("train", 300), bare("test", 60)
    encoder = Told(lambda image: image.mean() / 255)
    report = measure_uncertainty(encoder, train, test, views=VIEWS, progress=False)
    gallery = encoder.embed(ask_of_views(train, test, VIEWS, 0).gallery).astype(float)
    query = encoder.embed(test.images).astype(float)
    apart = np.square(query[:, None] - gallery[None]).sum(2)  # [60, 300]
    wrong = (np.delete(apart[i], i).min() < apart[i, i] for i in range(60))
    assert report.wrong == np.mean(list(wrong))
    assert 0 < report.wrong < 1
    assert isinstance(report, ViewsReport)
    names = [(each.queries, each.gallery) for each in report.searches]
    assert names == [
        ("images", "views"),
        ("views", "views"),
        ("views", "images"),
        ("corrupted", "views"),
        ("corrupted", "images"),
    ]
    assert report.searches[0].wrong == report.wrong
    assert report.chance is not None
    assert 0.05 < report.chance < 0.2  # bins of four images
    # Knowing how likely each image is to be found beats the brightness.
    assert report.searches[0].at_best is not None
    assert report.searches[0].at_best.value > report.score("uncertainty").r_auroc.value  # type: ignore[union-attr]


def uncalibrated(folder: Path) -> Package:
    """Copy the digit encoder without its uncertainty and content posterior."""
    shutil.copytree(BUNDLED / "simvae-mnist", folder)
    config = json.loads((folder / "config.json").read_text())
    for head in ("uncertainty", "content"):
        del config[head]
        (folder / f"{head}.onnx").unlink()
    for output in ("uncertainty", "content_mean", "content_variance"):
        del config["tolerances"][output]
    (folder / "config.json").write_text(json.dumps(config))
    return write_manifest(folder)


def test_a_package_of_unlabelled_images_has_its_numbers_on_the_card(tmp_path: Path) -> None:
    train, test = bare("train", 600, attributes=True), bare("test", 200, attributes=True)
    package = uncalibrated(tmp_path / "before")
    clothes = ImageDataset(
        "clothes", load(str(DATA / "fashion_mnist"), "test", progress=False).images
    )
    out = tmp_path / "out"
    config, report, _ = calibrate_package(
        package, out, train, test, VIEWS, outside={"clothes": clothes}, progress=False
    )
    assert config.uncertainty is not None
    assert config.uncertainty.probability_of.endswith("shows another image")
    assert "crops of" in config.uncertainty.probability_of
    assert isinstance(report, ViewsReport)
    names = [score.name for score in report.scores]
    assert names == [name for name in BASELINES if name != "vote"]
    assert report.score("ratio").r_auroc.value > 0.8  # type: ignore[union-attr]  # it sees the gallery
    assert report.scores[0].outside["clothes"].value > 0.8
    assert report.others == ()  # two attributes are one task of many answers
    Package.open(out).verify()
    card = (out / "README.md").read_text()
    assert report.table() in card
    assert "figures/uncertainty.png" in card
    assert "no test images" not in card
    kept = json.loads((out / "metrics.json").read_text())["uncertainty"]
    assert ViewsReport.model_validate(kept) == report
    with Image.open(out / "figures" / "uncertainty.png") as figure:
        assert figure.size[0] > 1000

    # The command gives the same on a folder of the same images.
    folder = tmp_path / "digits"
    for split, dataset in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        for number, image in enumerate(dataset.images):
            Image.fromarray(image[..., 0]).save(folder / split / f"{number:04}.png")
    command = [str(out), "--data", str(folder), "--uncertainty"]
    again = CliRunner().invoke(evaluate, command, catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert f"for {100 * report.wrong:.2f} % of 200 test images" in again.output
    assert "among" in again.output


def test_celebas_answers_are_told_apart_from_what_it_is_a_probability_of() -> None:
    names = ("Male", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
    random = np.random.default_rng(0)

    def faces(split: str, count: int) -> ImageDataset:
        flags = random.random((count, 5)) < 0.4
        return ImageDataset(
            "faces", bare(split, count).images, attributes=flags, attribute_names=names
        )

    encoder = Told(lambda image: image.mean() / 255)
    train, test = faces("train", 300), faces("test", 100)
    report = measure_uncertainty(encoder, train, test, views=VIEWS, progress=False)
    assert isinstance(report, ViewsReport)
    gender, hair = report.others
    assert (gender.task, hair.task) == ("gender", "hair-colour")
    z, gallery = encoder.embed(test.images), encoder.embed(train.images)
    found = torch.cdist(torch.from_numpy(z), torch.from_numpy(gallery)).argmin(1).numpy()
    assert train.attributes is not None
    assert test.attributes is not None
    assert gender.wrong == (train.attributes[found, 0] != test.attributes[:, 0]).mean()
    assert 0.3 < gender.wrong < 0.7
    assert "Not what the uncertainty predicts" in report.table()


def test_what_cannot_be_told_apart_is_refused_by_name() -> None:
    train, test = bare("train", 150), bare("test", 40)
    encoder = Told(lambda _: 0.5)
    with pytest.raises(DataError, match="needs views"):
        measure_uncertainty(encoder, train, test, progress=False)
    with pytest.raises(DataError, match="choose the recipe"):
        measure_uncertainty(encoder, train, test, views=SAME, progress=False)
    with pytest.raises(repzoo.InvalidInput, match="choose a recipe with other views"):
        fit_uncertainty(encoder, train, SAME, progress=False)


def test_without_an_uncertainty_the_others_are_measured(tmp_path: Path) -> None:
    encoder = repzoo.load(uncalibrated(tmp_path / "plain").path, provider="cpu")
    report = measure_uncertainty(
        encoder, bare("train", 200), bare("test", 60), views=VIEWS, progress=False
    )
    assert isinstance(report, ViewsReport)
    assert report.score("uncertainty") is None
    assert report.searches == report.others == ()
    assert "shows another image" in report.table()
