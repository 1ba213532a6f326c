"""`zoo index outliers`: the images in an index that the model is least sure of."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from repzoo_client.retrieval import PosteriorIndex


def test_noise_among_digits_comes_first(
    zoo_index: Callable[..., Any],
    digits: Callable[[int], Path],
    index_place: Path,
    tmp_path: Path,
) -> None:
    folder = digits(40)
    noise = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"noise {number}.png")
    zoo_index("build", folder, "--model", "simvae-mnist", "--out", index_place)
    table, sheet = tmp_path / "all.csv", tmp_path / "sheet.png"
    words = ("outliers", "--index", index_place, "-k", 3)
    done = zoo_index(*words, "--out", sheet, "--csv", table)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["RANK", "UNCERTAINTY", "ID"]
    assert {line.split(maxsplit=2)[2] for line in lines[1:4]} == {
        f"noise {number}.png" for number in range(3)
    }
    assert lines[4:] == [f"table: {table}", f"contact sheet: {sheet}"]

    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = [float(row["uncertainty"]) for row in rows]
    assert len(rows) == 43
    assert values == sorted(values, reverse=True)
    with PosteriorIndex.open(index_place, model="simvae-mnist") as index:
        stored = index.get([row["id"] for row in rows])
    np.testing.assert_allclose(values, stored.uncertainty, rtol=1e-5)

    # The first image is drawn first, at four times its size.
    with Image.open(folder / rows[0]["id"]) as first, Image.open(sheet) as drawn:
        pixels = np.asarray(drawn)[..., 0]
        expected = np.asarray(first.resize((112, 112), Image.Resampling.NEAREST))
    places = [
        (top, left)
        for top in range(20, 60)
        for left in range(10, 40)
        if np.array_equal(pixels[top : top + 112, left : left + 112], expected)
    ]
    assert len(places) == 1

    some = json.loads(zoo_index(*words, "--filter", "metadata['folder'] != ''", "--json").stdout)
    assert some["count"] == 40
    assert not any("noise" in each["id"] for each in some["outliers"])

    for path in folder.rglob("*.png"):
        path.unlink()
    failed = zoo_index(*words, "--out", sheet, status=1)
    assert "cannot be read, and no other image can" in failed.stderr


def test_an_index_without_uncertainties(
    zoo_index: Callable[..., Any], index_place: Path, tmp_path: Path
) -> None:
    with PosteriorIndex.create(index_place, model="plain", dim=2) as index:
        index.add(["a.png", "b.png"], np.zeros((2, 2), np.float32))
    failed = zoo_index("outliers", "--index", index_place, status=1)
    assert "plain has no calibrated uncertainty" in failed.stderr
