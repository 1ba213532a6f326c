"""The report of a run is kept and extended while checkpoint, images and protocols are the same."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from repzoo_training.commands.compare import compare
from repzoo_training.commands.evaluate import evaluate
from repzoo_training.commands.export import export
from repzoo_training.data import ImageDataset, load, load_splits
from repzoo_training.errors import DataError, RunError
from repzoo_training.evaluation import evaluate_dataset, evaluate_run
from repzoo_training.evaluation import runs as runs_module
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.loop.trainer import train as run_training
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe

DATA = Path(__file__).parents[1] / "data" / "mnist"
SMALL = ("network.widths=[64]", "images_per_step=16", "views_per_image=4", "precision=float32")


@pytest.fixture(scope="module")
def splits() -> tuple[ImageDataset, ImageDataset]:
    train, test = (load(str(DATA), split, progress=False) for split in ("train", "test"))
    return train, test


@pytest.fixture(scope="module")
def finished(
    splits: tuple[ImageDataset, ImageDataset], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    recipe = override(find_recipe("simvae-mnist"), (*SMALL, "views=1280", "seed=3"))
    folder = tmp_path_factory.mktemp("finished")
    run_training(recipe, splits[0], folder, source=str(DATA), device="cpu", progress=False)
    return folder


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """A copy of a run without a report."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The groups that each call computed."""
    calls: list[list[str]] = []

    def counted(*arguments: object, **options: object) -> object:
        calls.append(list(options["measures"]))  # type: ignore[call-overload]
        return evaluate_dataset(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runs_module, "evaluate_dataset", counted)
    return calls


def test_bad_images_follow_one_policy(
    small: Recipe, mnist: ImageDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every command on a run takes --max-skipped, reads the images once, and ends with status 3."""
    for number in range(10):
        path = tmp_path / "photos" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mnist.images[number, :, :, 0]).save(path)
    for number in range(6):
        (tmp_path / "photos" / "0" / f"bad{number}.png").write_text("no image")
    source = f"{tmp_path / 'photos'}#split=0.3"
    dataset = load(source, max_skipped=0.5, progress=False)
    run_training(small, dataset, tmp_path / "run", source=source, device="cpu", progress=False)
    for command, words in (
        (evaluate, ["--measures", "knn"]),
        (compare, ["--measures", "knn", "--no-figures"]),
        (export, ["--measures", "knn", "--out", str(tmp_path / "package")]),
    ):
        refused = CliRunner().invoke(command, [str(tmp_path / "run"), *words])
        assert "6 of 16 images cannot be read" in str(refused.exception)
        caplog.clear()
        options = [*words, "--max-skipped", "0.5"]
        done = CliRunner().invoke(command, [str(tmp_path / "run"), *options])
        assert done.exit_code == 3
        (note,) = [text for text in caplog.messages if "cannot be read (6 of 16):" in text]
        assert note.endswith("\n  and 1 more")
        assert "to list all images that cannot be read, use zoo embed" in done.stderr
    with pytest.raises(DataError, match=r"no test split, only train \(16 images\): --split 0\.1"):
        load_splits(tmp_path / "photos", size=(28, 28, 1))


def test_a_report_is_kept_and_added_to(
    trained: Path, splits: tuple[ImageDataset, ImageDataset], work: list[list[str]]
) -> None:
    first = evaluate_run(trained, splits, ["knn"], device="cpu", progress=False)
    assert (first.method, first.recipe, first.seed) == ("simvae", "simvae-mnist", 3)
    assert (first.views, first.steps, first.groups) == (1280, 20, ("knn",))
    assert evaluate_run(trained, splits, ["knn"], device="cpu", progress=False) == first
    # By default on the training data, which is read again and recognised.
    more = evaluate_run(trained, None, ["linear", "knn"], device="cpu", progress=False)
    assert more.groups == ("knn", "linear")
    assert more.measures[: len(first.measures)] == first.measures
    names = [(m.name, m.task) for m in more.measures]
    assert len(set(names)) == len(names)
    assert work == [["knn"], ["linear"]]
    written = json.loads((trained / "evaluation.json").read_text())
    assert written == more.model_dump(mode="json")
    # What was not asked for is kept, but not shown.
    assert evaluate_run(trained, splits, ["knn"], device="cpu", progress=False) == first
    assert json.loads((trained / "evaluation.json").read_text()) == written
    model = TrainedModel(trained)
    direct = evaluate_dataset(model, *splits, measures=["knn"], device="cpu", progress=False)
    assert direct.report.measures == first.measures


def test_another_checkpoint_other_images_or_protocols_are_measured_anew(
    trained: Path,
    splits: tuple[ImageDataset, ImageDataset],
    work: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured() -> float:
        return (
            evaluate_run(trained, splits, ["knn"], device="cpu", progress=False).measures[2].value
        )

    measured()
    checkpoint = torch.load(trained / "checkpoint.pt", weights_only=True)
    checkpoint["objective"]["encoder.head.weight"] *= 0.01
    torch.save(checkpoint, trained / "checkpoint.pt")
    measured()
    assert len(work) == 2  # other weights
    train, test = splits
    assert test.labels is not None
    halved = ImageDataset("half", test.images[::2].copy(), test.labels[::2].copy(), test.classes)
    report = evaluate_run(trained, (train, halved), ["knn"], device="cpu", progress=False)
    assert (len(work), report.n_test) == (3, 250)
    monkeypatch.setattr(runs_module, "SUITE", -1)
    evaluate_run(trained, (train, halved), ["knn"], device="cpu", progress=False)
    assert len(work) == 4
    (trained / "evaluation.json").write_text("{")
    evaluate_run(trained, (train, halved), ["knn"], device="cpu", progress=False)
    assert len(work) == 5


def test_a_run_generates_for_its_fid(
    trained: Path, splits: tuple[ImageDataset, ImageDataset]
) -> None:
    train, _ = splits
    model = runs_module._GeneratingRun(trained, torch.device("cpu"), train)
    images, latents = model.generate(70, seed=0)
    assert images.shape == (70, 28, 28, 1)
    assert images.dtype == np.float32
    again, _ = model.generate(70, seed=0)
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, model.generate(70, seed=1).images)
    # The prior matches the data: latents lie where the posterior means do.
    means = model.embed(train.images)
    np.testing.assert_allclose(latents.mean(0), means.mean(0), atol=4 * means.std() / np.sqrt(70))


def test_the_decoder_group(
    trained: Path, splits: tuple[ImageDataset, ImageDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    from repzoo_training.evaluation import frozen_decoder

    original = frozen_decoder.with_frozen_decoder

    def brief(*arguments: object, progress: bool) -> TrainedModel:
        return original(*arguments, steps=300, progress=progress)  # type: ignore[arg-type]

    monkeypatch.setattr(frozen_decoder, "with_frozen_decoder", brief)
    report = evaluate_run(trained, splits, ["decoder"], device="cpu", progress=False)
    (measure,) = report.measures
    assert measure.name == "decoder_reconstruction"
    assert measure.protocol["decoder"] == "trained on the frozen encoder, its mirror"
    blank = np.square(splits[1].images / 255 - (splits[0].images / 255).mean(0)).mean()
    assert 0 < measure.value < blank


def test_what_cannot_be_evaluated(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        evaluate_run(tmp_path / "nothing")
    (trained / "checkpoint.pt").unlink()
    with pytest.raises(RunError, match="no checkpoint yet"):
        evaluate_run(trained, None, ["knn"], progress=False)


def test_the_command_keeps_its_report(
    trained: Path, finish: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    words = ["evaluate", str(trained), "--measures", "linear,clustering"]
    done = finish(words)
    assert done.returncode == 0, done.stderr
    assert "class gmm_ari" in done.stdout
    kept = json.loads((trained / "evaluation.json").read_text())
    assert kept["groups"] == ["linear", "clustering"]
    words[-1] = "linear"
    done = finish(words)
    assert "class linear" in done.stdout
    assert "gmm" not in done.stdout
    words[-1] = "knn,style,telepathy"
    done = finish(words)
    assert done.returncode == 1
    assert "cannot measure 'telepathy'; choose from knn" in done.stderr
