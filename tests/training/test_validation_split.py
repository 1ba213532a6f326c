"""The validation split, and the benchmarks that choose settings on it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from repzoo_training.data import load
from repzoo_training.evaluation.splits import held_out_tenth

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "tests" / "data" / "mnist"


def test_every_tenth_training_image_is_held_out() -> None:
    images = load(DIGITS)
    kept, held_out = held_out_tenth(images)
    assert images.labels is not None
    assert kept.labels is not None
    assert held_out.labels is not None
    assert np.array_equal(held_out.images, images.images[9::10])
    assert np.array_equal(held_out.labels, images.labels[9::10])
    both = np.concatenate([kept.labels, held_out.labels])
    assert np.array_equal(np.bincount(both), np.bincount(images.labels))
    assert len({kept.sha256, held_out.sha256, images.sha256}) == 3


def run_twice(command: list[object], table: Path) -> list[dict[str, str]]:
    """Run a benchmark twice, and return the rows that the first run added to its table."""
    for _ in range(2):  # the second time, no run is trained again
        subprocess.run([*map(str, command)], check=True, capture_output=True)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert first == second
    return first


@pytest.mark.slow
def test_the_weight_is_chosen_on_held_out_training_images(tmp_path: Path) -> None:
    table = tmp_path / "weights.csv"
    command = [
        *(sys.executable, ROOT / "training" / "benchmarks" / "likelihood_weight.py", "mnist"),
        *("--data", DIGITS, "--method", "vae", "--views", 640, "--seeds", 2),
        *("--out", tmp_path / "runs", "--csv", table),
    ]
    first = run_twice(command, table)
    tried = {row["likelihood"]: row for row in first if row["split"] == "validation"}
    assert tried.keys() == {"weight=1", "weight=10", "weight=99.5"}
    scores = {
        weight: sum(
            float(row["value"])
            for row in first
            if row["split"] == "validation"
            and row["likelihood"] == weight
            and row["measure"] in ("k-NN euclidean, %", "MLP, %")
        )
        for weight in tried
    }
    tested = [row for row in first if row["split"] == "test"]
    assert {row["likelihood"] for row in tested} == {max(scores, key=scores.__getitem__)}
    assert {row["seeds"] for row in tested} == {"2"}
    assert len(list((tmp_path / "runs").iterdir())) == 5


@pytest.mark.slow
def test_every_combination_of_settings_is_measured_on_held_out_training_images(
    tmp_path: Path,
) -> None:
    table = tmp_path / "sweep.csv"
    command = [
        *(sys.executable, ROOT / "training" / "benchmarks" / "sweep.py", "minc-mnist"),
        *("--data", DIGITS, "--views", 512, "--seeds", 2, "--set", "latent_dim=16"),
        *("--vary", "options.triangle=false,true", "--vary", "views_per_image=2,4"),
        *("--views-per-step", 64),
        *("--out", tmp_path / "runs", "--csv", table),
    ]
    first = run_twice(command, table)
    assert {row["settings"] for row in first} == {
        f"latent_dim=16, options.triangle={triangle}, views_per_image={views}"
        for triangle in ("false", "true")
        for views in (2, 4)
    }
    assert {row["measure"] for row in first} >= {"k-NN cosine, %", "linear, %", "MLP, %"}
    assert {(row["split"], row["seeds"]) for row in first} == {("validation", "2")}
    recipes = [json.loads(path.read_text())["recipe"] for path in tmp_path.glob("runs/*/run.json")]
    assert len(recipes) == 8
    assert {recipe["views_per_image"] * recipe["images_per_step"] for recipe in recipes} == {64}


@pytest.mark.slow
def test_methods_are_compared_with_one_network(tmp_path: Path) -> None:
    table, figures = tmp_path / "methods.csv", tmp_path / "figures"
    command = [
        *(sys.executable, ROOT / "training" / "benchmarks" / "content_style.py", "cifar10-conv"),
        *("--data", ROOT / "tests" / "data" / "cifar10", "--views", 512),
        *("--method", "vae", "--method", "simclr", "--method", "random"),
        *("--set", "network.widths=[8,16,16,16]", "--set", "latent_dim=16"),
        *("--out", tmp_path / "runs", "--csv", table, "--figures", figures),
    ]
    first = run_twice(command, table)
    assert {(row["method"], row["J"], row["D"]) for row in first} == {
        ("VAE", "1", "16"),
        ("SimCLR", "2", "16"),
        ("Random", "2", "16"),
    }
    assert {row["measure"] for row in first} >= {
        "class, MLP, %",
        "position, linear, R²",
        "flip, linear, %",
        "crop, invariance",
        "colour, invariance",
        "colour, linear, R²",
    }
    assert (figures / "content-style-cifar10.png").read_bytes().startswith(b"\x89PNG")
    recipes = [json.loads(path.read_text())["recipe"] for path in tmp_path.glob("runs/*/run.json")]
    assert len(recipes) == 3
    assert len({json.dumps(recipe["network"]) for recipe in recipes}) == 1
    assert {recipe["views_per_image"] * recipe["images_per_step"] for recipe in recipes} == {256}
