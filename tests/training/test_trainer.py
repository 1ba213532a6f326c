"""Training as users see it: real processes on real images, killed and resumed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from repzoo_training.data import ImageDataset, load
from repzoo_training.errors import DataError, Diverged, RecipeError, RunError
from repzoo_training.loop import trainer
from repzoo_training.loop.budget import measure_budget
from repzoo_training.loop.step import Learner, build_objective, to_device
from repzoo_training.loop.trainer import train
from repzoo_training.objectives import Batch
from repzoo_training.optim.optimizers import learning_rate
from repzoo_training.randomness import generator, image_indices
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe, list_recipes
from repzoo_training.run import Run, RunRecord
from repzoo_training.views.views import Views
from torch import Tensor

ZOO = Path(sys.executable).with_name("zoo")
DATA = Path(__file__).parents[1] / "data" / "mnist"
STEPS = 240

Command = Callable[..., list[str]]
Finish = Callable[..., subprocess.CompletedProcess[str]]


def state(run: Path) -> dict[str, Any]:
    checkpoint = Run(run).read_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == STEPS
    return {**checkpoint.objective, "optimizer": checkpoint.optimizer["state"]}


def metrics(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("wall_seconds", "views_per_second")}
        for line in lines
    ]


def assert_identical(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_identical(a[key], b[key])
    else:
        assert torch.equal(a, b)


def wait_for(condition: Callable[[], bool], process: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        os.kill(process, 0)  # fails if it has ended
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(command: Command, finish: Finish, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = finish(command(run))
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def short(small: Recipe, mnist: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `small`; copy it before changing it."""
    return train(small, mnist, tmp_path_factory.mktemp("short"), progress=False).path


def test_a_run_killed_twice_ends_with_the_same_weights(
    command: Command, finish: Finish, zoo_processes: Any, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    words = command(run, "--checkpoint", "0.2s")
    for _ in range(2):
        process = zoo_processes.start(words, tmp_path)
        checkpoint = run / "checkpoint.pt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns > before, process)  # noqa: B023
        os.kill(process, signal.SIGKILL)
        assert zoo_processes.finish()[0] == -signal.SIGKILL
        saved = Run(run).read_checkpoint()
        assert saved is not None
        assert 0 < saved.step < STEPS
        # As if it had been killed while it wrote a checkpoint.
        (run / ".checkpoint.pt.0123456789abcdef").touch()
    done = finish(words)
    assert done.returncode == 0, done.stderr
    assert_identical(state(run), state(undisturbed))
    assert metrics(run) == metrics(undisturbed)
    assert {path.name for path in run.iterdir()} == {path.name for path in undisturbed.iterdir()}


@pytest.mark.slow
def test_a_resnet_with_its_statistics_queue_and_momentum_copy_resumes_exactly(
    finish: Finish, zoo_processes: Any, tmp_path: Path
) -> None:
    """All state is resumed: batch statistics, MoCo's queue, the target network."""
    settings = ["network.widths=[8,16]", "latent_dim=16", "images_per_step=16", "precision=float32"]
    words = ["train", "moco-cifar10", "--data", str(DATA.with_name("cifar10"))]
    words += ["--views", str(16 * 4 * 120), "--threads", "1", "--checkpoint", "0.5s"]
    words += [word for setting in settings for word in ("--set", setting)]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "killed"
    assert finish([*words, "--out", str(undisturbed)]).returncode == 0
    process = zoo_processes.start([*words, "--out", str(run)], tmp_path)
    wait_for((run / "checkpoint.pt").exists, process)
    os.kill(process, signal.SIGKILL)
    zoo_processes.finish()
    saved, last = Run(run).read_checkpoint(), Run(undisturbed).read_checkpoint()
    assert saved is not None
    assert last is not None
    assert saved.step < last.step
    assert finish([*words, "--out", str(run)]).returncode == 0
    resumed = Run(run).read_checkpoint()
    assert resumed is not None
    assert any("running_var" in key for key in resumed.objective)
    assert_identical(resumed.objective, last.objective)
    assert metrics(run) == metrics(undisturbed)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_signals_save_first_and_say_so(
    command: Command,
    finish: Finish,
    zoo_processes: Any,
    undisturbed: Path,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    run = tmp_path / "stopped"
    words = command(run, "--checkpoint", "1h")
    process = zoo_processes.start(words, tmp_path)
    wait_for((run / "metrics.jsonl").exists, process)
    os.kill(process, number)
    status, _, errors = zoo_processes.finish()
    assert status == code
    assert "saved at step" in errors
    assert finish(words).returncode == 0
    assert_identical(state(run), state(undisturbed))


def test_a_run_leaves_pictures_and_metrics(undisturbed: Path) -> None:
    lines = metrics(undisturbed)
    assert lines[-1]["step"] == STEPS
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    for name in ("reconstructions", "samples"):
        picture = np.asarray(Image.open(undisturbed / "figures" / f"{name}.png"))
        assert picture.std() > 10  # not blank


def test_a_finished_run_is_left_alone(command: Command, finish: Finish, undisturbed: Path) -> None:
    before = (undisturbed / "checkpoint.pt").read_bytes()
    assert finish(command(undisturbed)).returncode == 0
    assert (undisturbed / "checkpoint.pt").read_bytes() == before


def test_another_recipe_in_the_same_folder_is_refused(
    command: Command, finish: Finish, undisturbed: Path
) -> None:
    done = finish(command(undisturbed, "--set", "learning_rate=0.5"))
    assert done.returncode == 1
    assert "learning_rate was 0.001, now 0.5" in done.stderr


def test_other_images_in_the_same_folder_are_refused(
    small: Recipe, mnist: ImageDataset, short: Path
) -> None:
    with pytest.raises(RunError, match="different content"):
        train(small, ImageDataset("mnist", mnist.images[1:]), short, progress=False)


def test_two_processes_cannot_train_one_run(
    small: Recipe, mnist: ImageDataset, tmp_path: Path
) -> None:
    with Run(tmp_path).locked(), pytest.raises(RunError, match="another process"):
        train(small, mnist, tmp_path, progress=False)


def test_images_of_another_size_are_refused(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expects \\(28, 28, 1\\)"):
        train(small, ImageDataset("x", np.zeros((4, 32, 32, 3), np.uint8)), tmp_path)
    with pytest.raises(DataError, match="x has no images"):
        train(small, ImageDataset("x", np.zeros((0, 28, 28, 1), np.uint8)), tmp_path)
    assert not (tmp_path / "run.json").exists()


def photos_with_a_bad_one(folder: Path) -> Path:
    photos = folder / "photos"
    for index, name in enumerate(("cat", "dog")):
        (photos / "Train" / name).mkdir(parents=True)
        (photos / "Testing" / name).mkdir(parents=True)
        Image.new("L", (28, 28), 200 * index).save(photos / "Train" / name / "good.png")
        Image.new("L", (28, 28), 100).save(photos / "Testing" / name / "good.png")
    good = photos / "Train" / "cat" / "good.png"
    (good.parent / "cut.png").write_bytes(good.read_bytes()[:40])
    return photos


def test_strict_refuses_bad_images_before_the_first_step(
    command: Command, finish: Finish, tmp_path: Path
) -> None:
    words = command(tmp_path / "run", "--strict", data=photos_with_a_bad_one(tmp_path))
    done = finish(words)
    assert done.returncode == 1
    assert "1 of 3 images cannot be read" in done.stderr
    assert "cut.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_remembers_what_it_held_out(command: Command, finish: Finish, tmp_path: Path) -> None:
    """No command measures on the images that another command trained on."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index, image in enumerate(load(DATA).images[:60, :, :, 0]):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    words = command(tmp_path / "run", "--views", "64", "--split", "0.1:7", data=folder)
    done = finish(words)
    assert done.returncode == 0, done.stderr
    assert "my photos: 54 images, 28×28×1; splits: train 54, test 6; no labels\n" in done.stderr
    record = Run(tmp_path / "run").read_record()
    assert record is not None
    assert (record.source, record.dataset_images) == (f"{folder}#split=0.1:7", 54)
    line = next(line for line in done.stdout.splitlines() if line.startswith("next: "))
    evaluated = finish(shlex.split(line.removeprefix("next: zoo")))
    assert evaluated.returncode == 0, evaluated.stderr
    assert "54 train and 6 test images" in evaluated.stdout
    divided = finish(["evaluate", str(tmp_path / "run"), "--split", "0.2"])
    assert divided.returncode == 2
    assert "a run is measured on the images that it held out" in divided.stderr


def test_next_steps_without_a_test_split(command: Command, finish: Finish, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("L", (28, 28)).save(folder / "1.png")
    words = command(tmp_path / "run", "--views", "64", data=folder)
    done = finish(words)
    assert done.returncode == 0, done.stderr
    assert "zoo evaluate" not in done.stdout
    assert f"next: zoo export {tmp_path}/run --out packages/run\n" in done.stdout


def test_a_run_says_what_it_trains_on_and_skips_bad_images(
    command: Command, finish: Finish, tmp_path: Path
) -> None:
    words = command(tmp_path / "run", "--views", "64", data=photos_with_a_bad_one(tmp_path))
    done = finish(words)
    assert done.returncode == 3, done.stderr
    assert "images skipped because they cannot be read (1 of 3):" in done.stderr
    assert f"next: zoo evaluate {tmp_path}/run\n" in done.stdout
    summary = "photos: 2 images, 28×28×1; splits: train 2, test 2; 2 classes: cat 1, dog 1\n"
    assert summary in done.stderr
    assert done.stderr.index(summary) < done.stderr.index("views, loss")
    assert "cut.png: " in (tmp_path / "run" / "skipped.txt").read_text()


@pytest.mark.parametrize("recipe", ["moco-mnist", "instance-discrimination-mnist"])
def test_a_batch_of_one_view_is_refused_in_our_words(
    mnist: ImageDataset, tmp_path: Path, recipe: str
) -> None:
    one = override(
        find_recipe(recipe),
        ["network.widths=[8]", "images_per_step=1", "precision=float32", "views=64"],
    )
    if recipe.startswith("instance"):
        one = override(one, ["views_per_image=1"])
    with pytest.raises(
        RecipeError, match=r"raise images_per_step \(1\) or views_per_image"
    ) as error:
        train(one, mnist, tmp_path, progress=False)
    assert "channel" not in str(error.value)


@pytest.mark.slow
def test_a_budget_is_explained_at_the_start(
    command: Command, finish: Finish, tmp_path: Path
) -> None:
    words = command(tmp_path / "run", "--budget", "1s")
    done = finish(words)
    assert done.returncode == 0, done.stderr
    record = Run(tmp_path / "run").read_record()
    assert record is not None
    assert f"budget: {record.recipe.views:,} views, about 00:01 at the current" in done.stderr
    assert "longer if the machine gets busier" in done.stderr


def test_a_short_run_draws_its_pictures_once(
    small: Recipe, mnist: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures take seconds, which belong to the run's budget of time."""
    drawn = []
    monkeypatch.setattr(trainer.Progress, "draw", lambda *_: drawn.append("samples"))
    run = train(small, mnist, tmp_path, progress=False)
    assert drawn == ["samples"]
    assert (run.figures / "curves.png").exists()


def test_curves_have_the_terms_of_the_loss_only(
    small: Recipe, mnist: ImageDataset, tmp_path: Path
) -> None:
    """Also if the first line of the metrics has statistics of the embeddings."""
    sizes = set()
    for views in ("96", "640"):
        run = train(override(small, [f"views={views}"]), mnist, tmp_path / views, progress=False)
        with Image.open(run.figures / "curves.png") as curves:
            sizes.add(curves.size)
    assert "spectrum" in Run(tmp_path / "96").read_metrics()[0]
    assert len(sizes) == 1


def test_another_description_of_a_recipe_is_no_other_run(
    small: Recipe, mnist: ImageDataset, short: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(short, tmp_path / "run")
    changed = small.model_copy(update={"summary": "in other words", "notes": ("new",)})
    train(changed, mnist, run, progress=False)


def test_a_damaged_checkpoint_is_named(
    small: Recipe, mnist: ImageDataset, short: Path, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(short, tmp_path / "run"))
    content = run.checkpoint_file.read_bytes()
    run.checkpoint_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        train(small, mnist, run.path, progress=False)


def test_a_damaged_record_is_named_in_one_line(
    small: Recipe, mnist: ImageDataset, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"run\.json is damaged: recipe: Field required; ") as caught:
        train(small, mnist, tmp_path, progress=False)
    assert "\n" not in str(caught.value)


def test_divergence_keeps_the_checkpoint_and_names_the_way_out(
    small: Recipe, mnist: ImageDataset, tmp_path: Path
) -> None:
    wild = override(small, ["learning_rate=1e30", "warmup=0"])
    with pytest.raises(Diverged, match="lower learning rate"):
        train(wild, mnist, tmp_path, progress=False)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    "settings",
    [
        ["method=vae", "options={}"],
        ["method=beta-vae", 'options={"beta": 4}'],
        ["options.prior=normal"],
        ["options.terms=sampled"],
        ["likelihood.kind=optimal-gaussian"],
        ["likelihood.kind=gaussian"],
    ],
)
def test_every_objective_learns(
    small: Recipe, mnist: ImageDataset, tmp_path: Path, settings: list[str]
) -> None:
    recipe = override(small, [*settings, "views=1920"])
    run = train(recipe, mnist, tmp_path, progress=False)
    lines = metrics(run.path)
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_every_recipe_holds_together(recipe: Recipe) -> None:
    if recipe.method == "w-mse":
        recipe = override(recipe, ["options.projection_dim=1"])  # else 64 images at a time
    objective = build_objective(recipe, images=100)
    height, width, channels = recipe.input
    views = torch.rand(2, max(2, recipe.views_per_image), channels, height, width).round()
    batch = Batch(views, torch.arange(len(views)), torch.Generator().manual_seed(0))
    loss = objective(batch)["loss"]
    assert torch.isfinite(loss)


def test_initial_weights_come_from_the_seed(small: Recipe) -> None:
    torch.manual_seed(5)
    a = build_objective(small, images=100).state_dict()
    torch.manual_seed(6)
    assert_identical(dict(a), dict(build_objective(small, images=100).state_dict()))
    other = build_objective(override(small, ["seed=1"]), images=100).state_dict()
    assert not torch.equal(a["encoder.head.weight"], other["encoder.head.weight"])


def test_every_image_is_seen_equally_often() -> None:
    # 7 images in steps of 3: epochs end inside a step.
    rows = torch.cat([image_indices(0, 7, step, 3) for step in range(14)])
    assert rows.bincount().tolist() == [6] * 7
    assert sorted(rows[:7].tolist()) == list(range(7))
    assert rows[:7].tolist() != rows[7:14].tolist()


def test_the_schedule_warms_up_and_falls_to_zero(small: Recipe) -> None:
    recipe = override(small, ["views=32000", "warmup=0.1"])
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(1e-3 / 100)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (99, 100)
    assert rates[-1] < 1e-8


def test_a_budget_is_turned_into_views_once(
    small: Recipe, mnist: ImageDataset, tmp_path: Path
) -> None:
    images = to_device(mnist, torch.device("cpu"))
    assert measure_budget(1.0, small, images).views >= small.views_per_step
    run = train(small, mnist, tmp_path, budget_seconds=1.0, progress=False)
    record = run.read_record()
    assert record is not None
    assert record.input.resize.jpeg == "scaled"
    older = RunRecord.model_validate(record.model_dump(exclude={"jpeg"}))
    assert older.input.resize.jpeg == "full"  # its images were decoded at full size
    before = run.checkpoint_file.read_bytes()
    # Repeating the command does nothing, even if the machine is faster by then.
    train(small, mnist, tmp_path, budget_seconds=1.0, progress=False)
    assert run.read_record() == record
    assert run.checkpoint_file.read_bytes() == before


def test_settings_that_do_not_fit_are_refused() -> None:
    recipe = find_recipe("simvae-mnist")
    for setting, message in [
        ("views", "write KEY=VALUE"),
        ("latent=3", "latent"),
        ("views=many", "views"),
        ("network.depth.more=1", "did you mean 'network.depth'"),
    ]:
        with pytest.raises(RecipeError, match=message):
            override(recipe, [setting])
    for mistyped in ("options.prior=gaussian", "options.terms=closed-form"):
        with pytest.raises(RecipeError, match="must be"):
            build_objective(override(recipe, [mistyped]), images=100)
    for colour in ("augmentation.jitter=[0.1,0.1,0.1,0.1]", "augmentation.greyscale=0.5"):
        with pytest.raises(RecipeError, match="jitter and greyscale need colour images"):
            override(recipe, [colour])
    for impossible in ("latent_dim=1000000000000", "network.widths=[1000000000000]"):
        with pytest.raises(RecipeError, match="recipe simvae-mnist: "):
            build_objective(override(recipe, [impossible]), images=100)
    with pytest.raises(RecipeError, match="widths of a head must be positive integers"):
        build_objective(
            override(find_recipe("simclr-mnist"), ["options.projection_dim=-3"]), images=100
        )
    with pytest.raises(RecipeError, match="beta"):
        build_objective(override(recipe, ["options.beta=4"]), images=100)
    with pytest.raises(RecipeError, match="did you mean simvae-mnist or"):
        find_recipe("simvae-mnits")


def gradients_of(recipe: Recipe, dataset: ImageDataset) -> tuple[dict[str, Tensor], Tensor]:
    learner = Learner(recipe, to_device(dataset, torch.device("cpu")))
    terms = learner.compute_gradients(step=0)
    parameters = learner.objective.named_parameters()
    gradients = {n: p.grad for n, p in parameters if p.grad is not None}
    return gradients, terms["loss"]


def test_accumulated_gradients_are_those_of_the_whole_batch(mnist: ImageDataset) -> None:
    # These views are not random, and whole vectors of 16 numbers are drawn in sequence, so the
    # noise of the micro-batches equals the noise of the batch.
    recipe = override(
        find_recipe("vae-mnist"),
        ["network.widths=[64,32]", "latent_dim=16", "images_per_step=12", "precision=float32"],
    )
    whole, loss = gradients_of(recipe, mnist)
    for accumulate in (3, 12):
        parts, mean = gradients_of(override(recipe, [f"accumulate={accumulate}"]), mnist)
        assert mean.item() == pytest.approx(loss.item(), rel=1e-5)
        assert parts.keys() == whole.keys()
        for name, expected in whole.items():
            scale = expected.abs().max().item()
            torch.testing.assert_close(parts[name], expected, rtol=0, atol=1e-5 * scale)


def test_images_are_compared_within_a_micro_batch(mnist: ImageDataset) -> None:
    recipe = override(
        find_recipe("simclr-mnist"),
        ["network.widths=[64,32]", "images_per_step=6", "precision=float32"],
    )
    parts = override(recipe, ["accumulate=3"])
    assert parts.views_per_step == recipe.views_per_step
    assert parts.steps == recipe.steps

    objective = build_objective(recipe, len(mnist))
    images = torch.from_numpy(mnist.images).permute(0, 3, 1, 2)
    make_views = Views(recipe.augmentation, recipe.image_shape[1:])
    draws = generator(recipe.seed, "step", 0)
    losses = []
    for pair in image_indices(recipe.seed, len(mnist), 0, 6).split(2):
        views = make_views(images[pair], recipe.views_per_image, draws)
        losses.append(objective(Batch(views, pair, draws))["loss"].item())
    assert gradients_of(parts, mnist)[1].item() == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert gradients_of(recipe, mnist)[1].item() > sum(losses) / 3 + 0.3  # more to tell apart


def test_micro_batches_must_be_equal(small: Recipe, mnist: ImageDataset, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="multiple of 3"):
        train(override(small, ["accumulate=3"]), mnist, tmp_path, progress=False)
    assert not (tmp_path / "run.json").exists()


def test_a_batch_that_a_loss_cannot_use_is_refused_by_name(
    mnist: ImageDataset, tmp_path: Path
) -> None:
    single = override(find_recipe("simclr-mnist"), ["views_per_image=1", "network.widths=[8]"])
    with pytest.raises(RecipeError, match=r"recipe simclr-mnist: .*views"):
        train(single, mnist, tmp_path, progress=False)


def test_an_optimizer_that_does_not_fit_is_named(
    small: Recipe, mnist: ImageDataset, short: Path, tmp_path: Path
) -> None:
    """As in runs older than the separate parameter group for biases."""
    run = Run(shutil.copytree(short, tmp_path / "run"))
    checkpoint = run.read_checkpoint()
    assert checkpoint is not None
    groups = checkpoint.optimizer["param_groups"]
    groups[0]["params"] += groups.pop(1)["params"]
    run.save(checkpoint)
    with pytest.raises(RunError, match="optimizer state of another version of repzoo"):
        train(small, mnist, run.path, progress=False)


def test_a_compiler_is_asked_for(
    small: Recipe, mnist: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RunError, match="C\\+\\+ compiler"):
        train(small, mnist, tmp_path / "run", compiled=True, progress=False)


@pytest.mark.slow
def test_a_compiled_run_is_the_same_and_resumes_exactly(
    command: Command, finish: Finish, undisturbed: Path, tmp_path: Path
) -> None:
    def start(words: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen([ZOO, *words, "--compile"], stderr=subprocess.DEVNULL)

    whole, run = tmp_path / "whole", tmp_path / "stopped"
    assert start(command(whole)).wait(600) == 0
    words = command(run, "--checkpoint", "1h")
    process = start(words)
    wait_for((run / "metrics.jsonl").exists, process.pid, 600)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert start(words).wait(600) == 0
    assert_identical(state(run), state(whole))
    for compiled, eager in zip(metrics(whole)[:20], metrics(undisturbed)[:20], strict=True):
        assert compiled["loss"] == pytest.approx(eager["loss"], rel=1e-4)
    # Resuming without --compile is possible, with a warning.
    assert "compiled yes -> no" in finish(command(whole)).stderr
