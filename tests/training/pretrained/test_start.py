"""Runs that start from other weights, and runs that are extended."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import repzoo
import torch
from repzoo_training.data import ImageDataset, load
from repzoo_training.errors import RecipeError, RunError
from repzoo_training.export.package import export_run
from repzoo_training.loop.step import Learner, build_objective
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.loop.trainer import train
from repzoo_training.pretrained.loading import start_from
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.run import Run
from repzoo_training.watching.collapse import CollapseMonitor

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "zoo" / "bundled"
#: One step that changes nothing.
STILL = (
    "images_per_step=12",
    "views_per_image=10",
    "views=120",
    "learning_rate=1e-12",
    "precision=float32",
)


@pytest.fixture(autouse=True)
def _fast(shared_admissions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each package only once before its first load, and do not plot runs."""
    monkeypatch.setattr(CollapseMonitor, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load(ROOT / "tests" / "data" / "mnist", "test", progress=False)


def run_of(recipe: Recipe, digits: ImageDataset, out: Path, **options: object) -> Run:
    return train(recipe, digits, out, progress=False, device="cpu", **options)  # type: ignore[arg-type]


def test_a_run_starts_from_a_package(digits: ImageDataset, tmp_path: Path) -> None:
    recipe = override(find_recipe("simvae-mnist"), STILL)
    start = start_from(str(BUNDLED / "simvae-mnist"), digits, recipe)
    run = run_of(recipe, digits, tmp_path / "run", start=start)
    encoder = repzoo.load(BUNDLED / "simvae-mnist", provider="cpu")
    model = TrainedModel(run.path)
    expected = encoder.posterior(digits.images)
    mean, log_variance = model.posterior(digits.images)
    np.testing.assert_allclose(mean, expected.mean, atol=1e-4)
    np.testing.assert_allclose(np.exp(log_variance), expected.variance, rtol=1e-3)
    np.testing.assert_allclose(
        model.reconstruct(digits.images).images,
        encoder.reconstruct(digits.images).images,
        atol=1e-4,
    )
    record = run.read_record()
    assert record is not None
    assert record.started_from is not None
    assert record.started_from.startswith("simvae-mnist@sha256:")

    # It resumes with the same start, and is not another run that starts from nothing.
    run_of(recipe, digits, run.path, start=start)
    with pytest.raises(RunError, match=r"it started from simvae-mnist@.*, now new weights"):
        run_of(recipe, digits, run.path)
    # A run is a start as well.
    again = start_from(str(run.path), digits, recipe)
    assert again.source.startswith("the run simvae-mnist (checkpoint ")
    other = run_of(recipe, digits, tmp_path / "other", start=again)
    np.testing.assert_allclose(TrainedModel(other.path).embed(digits.images), mean, atol=1e-4)


def test_training_does_not_change_what_batch_normalisations_compute(tmp_path: Path) -> None:
    """Their statistics are those of views, which replace them within a few steps."""
    photos = load(ROOT / "tests" / "data" / "cifar10", "train", progress=False)
    steps = ("images_per_step=100", "views=2400", "learning_rate=1e-12", "precision=float32")
    recipe = override(find_recipe("simclr-cifar10-conv"), steps)
    start = start_from(str(BUNDLED / "simclr-cifar10"), photos, recipe)
    run = run_of(recipe, photos, tmp_path / "run", start=start)
    before = repzoo.load(BUNDLED / "simclr-cifar10", provider="cpu").embed(photos.images)
    after = TrainedModel(run.path).embed(photos.images)
    assert np.sqrt(np.mean((after - before) ** 2)) < 0.1 * before.std()


def test_copies_of_the_encoder_start_from_the_package_too(digits: ImageDataset) -> None:
    recipe = override(find_recipe("byol-mnist"), ["latent_dim=10"])
    start = start_from(str(BUNDLED / "minc-mnist"), digits, recipe)
    objective = build_objective(recipe, len(digits), start)
    state = objective.state_dict()
    for name, value in start.encoder.items():
        assert torch.equal(state[f"encoder.{name}"], value)
        assert torch.equal(state[f"target_encoder.module.{name}"], value)


def test_a_start_of_another_network_is_refused(
    digits: ImageDataset, small: Recipe, tmp_path: Path
) -> None:
    start = start_from(str(BUNDLED / "simvae-mnist"), digits, small)
    with pytest.raises(RecipeError, match=r"is another network: its backbone.1.weight is \(2000,"):
        run_of(small, digits, tmp_path / "run", start=start)
    assert not Run(tmp_path / "run").record_file.exists()
    colours = load(ROOT / "tests" / "data" / "cifar10", "test", progress=False)
    with pytest.raises(RecipeError, match="simvae-mnist is for images of 28×28×1, but"):
        start_from(str(BUNDLED / "simvae-mnist"), colours, find_recipe("simvae-cifar10"))


def rates(run: Run) -> list[float]:
    return [line["learning_rate"] for line in run.read_metrics()]


def test_a_finished_run_is_extended(
    digits: ImageDataset, small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(small, digits, tmp_path / "run")
    longer = override(small, ["views=1920"])
    run_of(longer, digits, run.path)
    record = run.read_record()
    assert record is not None
    assert record.recipe == longer
    assert record.extended_at == (20,)
    peak = small.learning_rate
    expected = [
        *(peak * (1 + math.cos(math.pi * step / 19)) / 2 for step in range(19)),
        *(peak * (1 + math.cos(math.pi * step / 39)) / 2 for step in range(39)),
    ]
    found = rates(run)
    assert len(found) == 60
    # Each schedule begins with one step of warm-up, at the full rate.
    np.testing.assert_allclose([*found[1:20], *found[21:]], expected, rtol=1e-6)
    assert found[0] == found[20] == peak

    # An interrupted extension ends with the same weights.
    other = run_of(small, digits, tmp_path / "other")
    steps = iter(range(13))

    def step(self: Learner, number: int) -> dict[str, torch.Tensor]:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return real(self, number)

    real = Learner.step
    monkeypatch.setattr(Learner, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run_of(longer, digits, other.path, checkpoint_seconds=0)
    monkeypatch.setattr(Learner, "step", real)
    run_of(longer, digits, other.path)
    ends = [each.read_checkpoint() for each in (run, other)]
    assert ends[0] is not None
    assert ends[1] is not None
    for name, value in ends[0].objective.items():
        assert torch.equal(value, ends[1].objective[name]), name


def test_the_card_says_where_a_run_started_and_was_extended(
    digits: ImageDataset, small: Recipe, tmp_path: Path
) -> None:
    run = run_of(small, digits, tmp_path / "run")
    start = start_from(str(run.path), digits, small)
    tuned = tmp_path / "tuned"
    run_of(small, digits, tuned, start=start)
    run_of(override(small, ["views=960"]), digits, tuned, start=start)
    export_run(tuned, tmp_path / "package", digits, None, progress=False)
    card = (tmp_path / "package" / "README.md").read_text()
    assert f"| Started from | {start.source} |" in card
    assert "| Training budget | 960 views" in card
    assert "; extended after 640 views, with a new learning-rate schedule each time |" in card


def test_what_is_not_an_extension_is_refused(
    digits: ImageDataset, small: Recipe, tmp_path: Path
) -> None:
    run = run_of(small, digits, tmp_path / "run")
    for changes in (["views=320"], ["views=1280", "seed=1"]):
        with pytest.raises(RunError, match="holds a different run"):
            run_of(override(small, changes), digits, run.path)
    record = run.read_record()
    assert record is not None
    assert record.recipe == small
