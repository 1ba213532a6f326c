"""Experiment trackers: real ones where they are installed, and one of a user's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image
from repzoo.errors import MissingExtra
from repzoo_training.data import ImageDataset
from repzoo_training.errors import RunError
from repzoo_training.loop.trainer import train
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.run import Run, RunRecord
from repzoo_training.watching.trackers import TRACKERS


class Mine:
    """A user's own tracker, which may fail at a step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.started: tuple[str, int] | None = None
        self.seen: dict[int, dict[str, float]] = {}
        self.complete: bool | None = None

    def start(self, run: Run, record: RunRecord, step: int) -> None:
        if self.fails_at == 0:
            raise OSError("no server")
        self.started = record.recipe.name, step

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step == self.fails_at:
            raise OSError("the server is gone")
        self.seen[step] = dict(values)

    def finish(self, *, complete: bool) -> None:
        self.complete = complete


def test_a_tracker_of_ones_own_gets_every_number(
    small: Recipe, mnist: ImageDataset, tmp_path: Path
) -> None:
    mine = Mine()
    run = train(small, mnist, tmp_path, trackers=[mine], progress=False)
    assert (mine.started, mine.complete) == (("simvae-mnist", 0), True)
    lines = {line["step"]: line for line in run.read_metrics()}
    assert mine.seen.keys() == lines.keys()
    for step, values in mine.seen.items():
        assert values["loss"] == lines[step]["loss"]
        assert "spectrum" not in values
    assert {"rankme", "learning_rate", "log_likelihood"} <= mine.seen[small.steps].keys()
    with Image.open(run.figures / "curves.png") as curves:
        assert curves.width > 500


def test_a_tracker_that_fails_does_not_end_the_run(
    small: Recipe, mnist: ImageDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, other = Mine(fails_at=3), Mine()
    run = train(small, mnist, tmp_path, trackers=[failing, other], progress=False)
    assert sorted(failing.seen) == [1, 2]
    assert failing.complete is None
    assert len(other.seen) == len(run.read_metrics()) == small.steps
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: Mine failed and gets no more reports of this run (")


def test_a_tracker_that_cannot_start_stops_the_run(
    small: Recipe, mnist: ImageDataset, tmp_path: Path
) -> None:
    other = Mine()
    with pytest.raises(RunError, match=r"^Mine cannot start: no server$"):
        train(small, mnist, tmp_path, trackers=[other, Mine(fails_at=0)], progress=False)
    assert other.complete is False
    # It can be dropped, and the run begins.
    assert train(small, mnist, tmp_path, progress=False).read_metrics()[-1]["views"] == 640


@pytest.mark.parametrize("name", TRACKERS)
def test_a_library_that_is_missing_is_named(
    name: str,
    small: Recipe,
    mnist: ImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("wandb", "mlflow", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"^--track {name} needs the '{name}' extra"):
        train(small, mnist, tmp_path, trackers=[TRACKERS[name]()], progress=False)


@pytest.mark.parametrize("name", TRACKERS)
def test_real_trackers(
    name: str,
    command: Callable[..., list[str]],
    finish: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    pytest.importorskip(name)
    words = command(tmp_path / "run", "--views", "640", "--track", name)
    env = {
        "WANDB_MODE": "offline",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlflow").as_uri(),
    }
    done = finish(words, env)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    losses = [line["loss"] for line in run.read_metrics()]
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run.path / "tensorboard"))
        events.Reload()
        assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
        return
    identifier = json.loads((run.path / "trackers.json").read_bytes())[name]
    if name == "wandb":
        assert list((run.path / "wandb").glob(f"offline-run-*-{identifier}/*.wandb"))
    else:
        (file,) = (tmp_path / "mlflow").glob(f"*/{identifier}/metrics/loss")
        written = [float(line.split()[1]) for line in file.read_text().splitlines()]
        assert written == pytest.approx(losses)
