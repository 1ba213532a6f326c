"""``torchrun`` as users see it: real processes, killed and resumed."""

from __future__ import annotations

import json
import os
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
from filelock import FileLock, Timeout
from repzoo_training.data import load
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.run import Run

DATA = Path(__file__).parents[1] / "data" / "mnist"
STEPS = 300
SETTINGS = (
    *("network.widths=[64,32]", "images_per_step=12", "views_per_image=4", "precision=float32"),
    *("learning_rate=0.0003", f"views={STEPS * 12 * 4}"),
)


def command(out: Path, *extra: str, processes: int = 2) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
        *("-m", "repzoo_training", "simvae-mnist", "--data", str(DATA), "--out", str(out)),
        *("--device", "cpu", "--threads", "1", *settings, *extra),
    ]


class Launched:
    """``torchrun`` in its own session."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True)

    def wait(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def workers(self) -> list[int]:
        """Return process ids, ordered by rank."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in children.read_text().split()]


def until_free(run: Path) -> None:
    """Wait until no process holds the lock of the run."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with FileLock(run / ".lock", timeout=0):
                return
        except Timeout:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def saved_step(run: Path) -> int:
    checkpoint = Run(run).read_checkpoint()
    return 0 if checkpoint is None else checkpoint.step


def state(run: Path) -> dict[str, Any]:
    checkpoint = Run(run).read_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == STEPS
    assert checkpoint.environment["processes"] == "2"
    moments = {
        f"{number}.{name}": value
        for number, each in checkpoint.optimizer["state"].items()
        for name, value in each.items()
    }
    return {**checkpoint.objective, **moments}


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("wall_seconds", "views_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
def test_a_run_of_two_processes_that_is_killed_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "killed"
    whole = Launched(command(undisturbed), tmp_path / "whole.log")
    assert whole.wait() == 0, whole.log.read_text()
    words = command(run, "--checkpoint", "0.3s")

    # The launcher is killed without a message: its processes notice, save and exit.
    killed = Launched(words, tmp_path / "killed.log")
    killed.wait_for((run / "checkpoint.pt").exists)
    killed.process.kill()
    killed.wait()
    until_free(run)
    first = saved_step(run)
    assert 0 < first < STEPS
    assert "saved at step" in killed.log.read_text()

    # One process is killed: the launcher ends the other one, and nothing hangs.
    broken = Launched(words, tmp_path / "broken.log")
    broken.wait_for(lambda: saved_step(run) > first)
    os.kill(broken.workers()[1], signal.SIGKILL)
    assert broken.wait() != 0
    until_free(run)
    second = saved_step(run)
    assert first < second < STEPS

    # SIGTERM reaches all processes: they finish the same step and save.
    ended = Launched(command(run, "--checkpoint", "1h"), tmp_path / "ended.log")
    lines = len(metrics(run))
    ended.wait_for(lambda: len((run / "metrics.jsonl").read_text().splitlines()) > lines)
    ended.process.send_signal(signal.SIGTERM)
    ended.wait()
    until_free(run)
    assert ended.log.read_text().count("saved at step") == 1
    assert second < saved_step(run) < STEPS

    last = Launched(words, tmp_path / "last.log")
    assert last.wait() == 0, last.log.read_text()
    assert "resuming with" not in last.log.read_text()
    one, other = state(run), state(undisturbed)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    assert metrics(run) == metrics(undisturbed)

    # The result is an ordinary run.
    images = load(str(DATA), "test", progress=False).images[:8]
    assert np.isfinite(TrainedModel(run).embed(images)).all()


def test_errors_are_told_once(tmp_path: Path) -> None:
    refused = Launched(command(tmp_path / "run", "--set", "images_per_step=7"), tmp_path / "log")
    assert refused.wait() == 1
    text = refused.log.read_text()
    assert text.count("cannot be divided equally") == 1
    assert not (tmp_path / "run" / "run.json").exists()
