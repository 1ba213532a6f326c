"""kill -9 at random moments, many times: nothing acknowledged is lost, nothing half-done seen."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from repzoo_training.run import Run

ZOO = Path(sys.executable).with_name("zoo")
DATA = Path(__file__).parents[1] / "data" / "mnist"

pytestmark = pytest.mark.slow


def killed_after(seconds: float, *words: object) -> bool:
    """Run a command and kill it after a while; whether it had ended by itself by then."""
    process = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return process.returncode == 0


def zoo(*words: object) -> str:
    done = subprocess.run(
        [str(ZOO), *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_killed_at_random_moments(tmp_path: Path) -> None:
    settings = ("network.widths=[256,64]", "images_per_step=16", "precision=float32")
    words = [ZOO, "train", "simvae-mnist", "--data", DATA, "--views", 160_000, "--threads", 1]
    words += [word for setting in settings for word in ("--set", setting)]
    zoo(*words[1:], "--out", tmp_path / "undisturbed")
    clock = random.Random(0)
    kills = 0
    while not killed_after(
        clock.uniform(2, 12), *words, "--out", tmp_path / "killed", "--checkpoint", "0.5s"
    ):
        kills += 1
        assert kills < 60
    print(f"training: killed {kills} times")
    assert kills >= 3
    states = []
    for name in ("undisturbed", "killed"):
        checkpoint = Run(tmp_path / name).read_checkpoint()
        assert checkpoint is not None
        states.append(checkpoint.objective)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_publish_and_pull_killed_at_random_moments(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    """The hub always has a whole revision, and a pull after any kill gets one that verifies."""
    hub = tmp_path / "hub"
    zoo("hub", "init", hub)
    versions = [make_package(tmp_path / f"v{seed}", "tiny", seed=seed) for seed in range(20)]
    zoo("publish", versions[0], "--hub", hub)
    revisions = [zoo("info", version, "--json") for version in versions]
    known = {json.loads(text)["revision"] for text in revisions}
    clock = random.Random(0)
    finished = {"publish": 0, "pull": 0}
    for attempt in range(100):
        finished["publish"] += killed_after(
            clock.uniform(0.1, 1.2), ZOO, "publish", versions[attempt % 20], "--hub", hub
        )
        assert json.loads(zoo("info", "tiny", "--hub", hub, "--json"))["revision"] in known
        finished["pull"] += killed_after(clock.uniform(0.1, 1.0), ZOO, "pull", "tiny", "--hub", hub)
        if attempt % 10 == 9:
            zoo("pull", "tiny", "--hub", hub)
            zoo("verify", "tiny")
    print(f"of 100 each, ended before their kill: {finished}")
    assert 0 < finished["publish"] < 100
    assert 0 < finished["pull"] < 100
    shutil.rmtree(hub)
    zoo("verify", "tiny")  # the cache stands on its own
