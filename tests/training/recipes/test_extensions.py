"""Objectives, networks, views and recipes of the user, as real files in real processes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TUTORIAL = (ROOT / "docs" / "tutorials" / "own-objective.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
FAST = ["--set", "images_per_step=32", "--set", "network.widths=[32]"]

Zoo = Callable[..., str]

EVERYTHING = """
import torch
from torch import nn
from repzoo_training import networks
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.views import views

class Pooled(nn.Module):
    def __init__(self, spec, shape):
        super().__init__()
        self.feature_dim = spec.options.get("features", 8)
        self.layer = nn.Conv2d(shape[0], self.feature_dim, 3, 2)

    def forward(self, x):
        return self.layer(x).relu().amax((2, 3))

networks.register("pooled", networks.Network(Pooled))
views.register("dim", lambda x, generator: x * torch.rand((), generator=generator))
base = find_recipe("simclr-mnist")
RECIPES = [
    base.model_copy(update={
        "name": "pooled-mnist",
        "network": networks.NetworkSpec(kind="pooled", options={"features": 16}),
        "augmentation": base.augmentation.model_copy(update={"extra": ("dim",)}),
    })
]
"""


@pytest.fixture
def zoo(tmp_path: Path, zoo_process: Callable[..., tuple[int, str, str]]) -> Zoo:
    """``zoo(words, status=0, **env)`` runs a command in ``tmp_path``, with a cache of its own."""

    def run(words: Sequence[str], status: int = 0, **env: str) -> str:
        environment = {"REPZOO_CACHE": str(tmp_path / "cache"), **env}
        found, stdout, stderr = zoo_process(words, tmp_path, environment)
        assert found == status, stdout + stderr
        return stdout + stderr

    return run


def test_the_tutorial(zoo: Zoo, tmp_path: Path) -> None:
    """Every command, in order; training is cut short."""
    program = next(text for language, text in BLOCKS if language == "python")
    assert len(program.splitlines()) <= 45
    (tmp_path / "alignment.py").write_text(program)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    commands = [
        shlex.split(line.removeprefix("$ zoo "))
        for language, text in BLOCKS
        if language == "console"
        for line in text.splitlines()
    ]
    printed = {}
    for words in commands:
        if words[0] == "serve":
            continue  # it does not end
        if "--budget" in words:
            place = words.index("--budget")
            words[place : place + 2] = ["--views", "640", *FAST]
        printed[" ".join(words[:3])] = zoo(words)
    assert "options.sharpness=2.0\n    t, the sharpness" in printed["train alignment.py --show"]
    table = printed["compare runs/alignment runs/weak"]
    named = "Alignment (alignment-mnist, options.uniform="
    for row in (f"{named}1.0)", f"{named}0.1)", "SimCLR"):
        assert any(line.startswith(f"{row} ") for line in table.splitlines())
    card = (tmp_path / "packages" / "alignment" / "README.md").read_text()
    assert "Alignment (contrastive)" in card
    assert "| Paper | arXiv:2005.10242 |" in card
    record = json.loads((tmp_path / "runs" / "weak" / "run.json").read_text())
    assert record["recipe_files"] == [str(tmp_path / "alignment.py")]
    assert record["recipe"]["options"] == {"uniform": 0.1}

    # Someone else's machine does not run a file because a run names it.
    foreign = {"REPZOO_CACHE": str(tmp_path / "other")}
    refused = zoo(["evaluate", "runs/weak"], status=1, **foreign)
    assert "set REPZOO_RECIPES to the file if you trust it" in refused
    trusted = {**foreign, "REPZOO_RECIPES": str(tmp_path / "alignment.py")}
    zoo(["evaluate", "runs/weak", "--measures", "knn"], **trusted)


def test_a_network_and_views_of_an_installed_package(zoo: Zoo, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "mine.py").write_text(EVERYTHING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[repzoo.recipes]\nmine = mine\nbroken = missing_module\n"
    )
    env = {"PYTHONPATH": str(site)}
    listed = zoo(["train", "--list"], **env)
    assert "pooled-mnist" in listed
    assert "recipes of mine (missing_module) cannot be loaded: ModuleNotFoundError" in listed
    data = str(ROOT / "tests" / "data" / "mnist")
    words = ["train", "pooled-mnist", "--data", data, "--out", "run", "--views", "640"]
    zoo([*words, "--set", "images_per_step=32"], **env)
    zoo(["export", "run", "--out", "package", "--measures", "knn"], **env)
    assert "4 features" in zoo(
        [
            *words[:5],
            "other",
            "--set",
            'network.options={"features":4}',
            "--set",
            "network.head=none",
        ],
        status=1,
        **env,
    )
    # Without the package: the run needs it, what was exported does not.
    assert "unknown network 'pooled'" in zoo(["evaluate", "run"], status=1)
    assert "golden" in zoo(["verify", "package"])


def test_files_that_do_not_work(zoo: Zoo, tmp_path: Path) -> None:
    def show(text: str, name: str = "mine.py") -> str:
        (tmp_path / "mine.py").write_text(text)
        answer = zoo(["train", name, "--show"], status=1)
        assert "Traceback" not in answer
        return answer

    start = (
        "from repzoo_training.recipes.registry import find_recipe\nr = find_recipe('vae-mnist')\n"
    )
    assert "missing.py does not exist" in zoo(["train", "missing.py", "--show"], status=1)
    assert "mine.py cannot be loaded: SyntaxError" in show("def")
    assert "mine.py cannot be loaded: ZeroDivisionError" in show("1 / 0")
    assert "mine.py has 0 recipes; name one of them: none" in show("")
    assert "RECIPES must be a list of Recipe" in show("RECIPES = ['simclr']")
    two = f"{start}RECIPES = [r.model_copy(update={{'name': n}}) for n in ('a', 'b')]"
    assert "has 2 recipes; name one of them: mine.py:a, mine.py:b" in show(two)
    assert "name one of them" in show(two, "mine.py:c")
    assert "name=b" in zoo(["train", "mine.py:b", "--show"])
    wrong = f"{start}RECIPES = [r.model_copy(update={{'views': 0}})]"
    assert "mine.py: views: Input should be greater than 0" in show(wrong)
    taken = "from repzoo_training.objectives import *\nregister('vae', METHODS['vae'])"
    assert "the method 'vae' exists already" in show(taken)
