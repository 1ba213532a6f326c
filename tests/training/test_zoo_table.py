"""The tables of the zoo, as printed by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from repzoo_training.data import load
from repzoo_training.export import export_run
from repzoo_training.loop.trainer import train
from repzoo_training.recipes.recipe import override
from repzoo_training.recipes.registry import find_recipe

ROOT = Path(__file__).parents[2]
MNIST = ROOT / "tests" / "data" / "mnist"


def table(*arguments: object) -> str:
    command = [sys.executable, ROOT / "training" / "benchmarks" / "zoo_table.py", *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return done.stdout


def cells(text: str, model: str) -> dict[str, str]:
    """Return the row of a model by the headings of its columns."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    (place,) = [i for i, line in enumerate(lines) if line[0] == f"`{model}`"]
    head = next(line for line in reversed(lines[:place]) if line[0] == "model")
    return dict(zip(head, lines[place], strict=True))


def test_every_bundled_package_has_its_row(tmp_path: Path) -> None:
    text = table(ROOT / "zoo" / "bundled", "--cache", tmp_path)
    for config in sorted((ROOT / "zoo" / "bundled").glob("*/config.json")):
        name = config.parent.name
        row = cells(text, name)
        measures = json.loads((config.parent / "metrics.json").read_text())["evaluation"]
        stated = next(m["value"] for m in measures["measures"] if m["name"] == "mlp")
        assert row["MLP"].startswith(f"{100 * stated:.1f} ± ")
        assert row["seeds"] == "1"
        # Every number is in the package, without a cache.
        assert all(row[head] for head in ("GMM", "position R²", "flip"))
        assert bool(row["MSE"]) == (config.parent / "decoder.onnx").exists()
        if name.startswith(("simvae", "vae")):
            assert row["FID of samples"]
            assert row["of test images"]
    assert cells(text, "simvae-celeba")["paper: hair colour"] == "67.5"
    assert "not in Inception's" in text


@pytest.mark.slow
def test_what_a_package_lacks_is_measured_once(tmp_path: Path) -> None:
    images = [load(str(MNIST), split, progress=False) for split in ("train", "test")]
    small = ("network.widths=[32]", "views=640", "precision=float32")
    recipe = override(find_recipe("simvae-mnist"), small)
    run = train(recipe, images[0], tmp_path / "run", progress=False)
    packages = tmp_path / "packages"
    export_run(run.path, packages / "mine", *images, name="mine", measures=["knn"], progress=False)
    options = (packages, "--cache", tmp_path / "cache")
    assert "MLP" not in cells(table(*options), "mine")
    measured = table(*options, "--source", f"mnist={MNIST}")
    assert {"MLP", "GMM", "FID of samples"} <= set(cells(measured, "mine"))
    assert table(*options) == measured  # from the cache
