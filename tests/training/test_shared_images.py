"""Nobody publishes their own images by surprise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import repzoo_training.export
from click.testing import CliRunner
from repzoo_training.commands.export import export
from repzoo_training.commands.options import warn_of_shared_images
from repzoo_training.commands.train import train
from repzoo_training.data import with_split
from repzoo_training.recipes.recipe import override
from repzoo_training.recipes.registry import find_recipe

DATA = Path(__file__).parents[1] / "data" / "mnist"
WARNING = f"share_images is true in this recipe, so packages contain some images of {DATA}:"


def test_train_and_export_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["simvae-mnist", "--data", str(DATA), "--views", "40", "--device", "cpu"]
    for setting in ("network.widths=[16]", "images_per_step=2", "views_per_image=4"):
        words += ["--set", setting]
    done = CliRunner().invoke(train, [*words, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert WARNING in done.stderr

    made = SimpleNamespace(name="mine", precision="float32")
    monkeypatch.setattr(repzoo_training.export, "export_run", lambda *_, **__: made)
    done = CliRunner().invoke(export, [str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert WARNING in done.stderr


def test_only_images_of_ones_own_are_private(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = find_recipe("simvae-mnist")
    for source in ("mnist", with_split("mnist", "0.1")):
        warn_of_shared_images(source, recipe)
    warn_of_shared_images("/photos", override(recipe, ("share_images=false",)))
    assert capsys.readouterr().err == ""
    warn_of_shared_images(with_split("/photos", "0.1"), recipe)
    assert "some images of /photos: in golden.npz" in capsys.readouterr().err
