"""The results data, and the tables of the documentation that are generated from it."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from repzoo_training.objectives import METHODS
from repzoo_training.recipes.registry import find_recipe, list_recipes
from repzoo_training.results import published, reached
from repzoo_training.results.reached import expectation

ROOT = Path(__file__).parents[2]
GENERATE = ROOT / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", GENERATE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table_is_written_between_its_markers(generate: ModuleType) -> None:
    page = "before\n<!-- begin: results/int8-error -->\nold\n<!-- end -->\nafter\n"
    filled = generate.fill(page)
    assert "old" not in filled
    assert "| all layers, 7 bits | 0.028 | 0.012 |  |" in filled
    assert filled.startswith("before\n<!-- begin: results/int8-error -->\n")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert generate.fill(filled) == filled
    with pytest.raises(SystemExit, match="results/nothing does not exist; choose from"):
        generate.fill(page.replace("int8-error", "nothing"))


def test_every_number_in_the_text_about_results_is_in_a_table() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    blocks = re.findall(r"<!-- begin: (.*?) -->(.*?)<!-- end -->", page, re.DOTALL)
    tables = "".join(table for _, table in blocks)
    measured = {f"{float(n):.1f}" for n in re.findall(r"\d+\.\d+", tables)}
    with (ROOT / "docs" / "results" / "conv-celeba.csv").open(newline="") as file:
        measured |= {r["value"] for r in csv.DictReader(file) if r["method"].startswith("princ")}
    text = re.sub(r"<!-- begin.*?<!-- end -->|```.*?```", "", page, flags=re.DOTALL)
    claimed = re.findall(r"(?<![\d.,/])\d\d\.\d(?![\d.])", text)
    assert len(claimed) > 20
    assert set(claimed) <= measured


def test_constant_columns_become_the_caption(generate: ModuleType) -> None:
    rows = [
        {"dataset": "mnist", "views": "250000", "J": j, "measure": m, "value": v, "low": low,
         "high": high, "standard_error": error, "note": note}
        for j, m, v, error, low, high, note in (
            ("1", "k-NN, %", "95.7", "0.1", "", "", ""),
            ("1", "gain", "0.93", "", "0.91", "0.94", "noise"),
            ("2", "k-NN, %", "96.0", "", "", "", ""),
        )
    ]  # fmt: skip
    assert generate.pivot(rows).splitlines() == [
        "dataset: mnist; views: 250,000",
        "",
        "| J | k-NN, % | gain |",
        "| --- | ---: | ---: |",
        "| 1 | 95.7 ± 0.1 | 0.93 [0.91, 0.94] (noise) |",
        "| 2 | 96.0 |  |",
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "results").glob("*.csv")), ids=str)
def test_every_number_is_one(path: Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("value", "standard_error", "low", "high"):
            assert not row.get(name) or float(row[name]) is not None
        assert row["measure"]


def test_published_and_reached_numbers_have_known_subjects() -> None:
    for row in published.rows():
        assert row["source"] in published.SOURCES
        assert row["method"] in METHODS
        assert 0 < float(row["value"]) < 100
    for row in reached.rows():
        assert find_recipe(row["recipe"]).method == row["method"]
        assert row["command"].startswith(("python ", "zoo "))
        assert 0 < float(row["value"]) < 100


def test_reached_numbers_of_bundled_packages_are_those_of_the_packages(
    generate: ModuleType,
) -> None:
    packages = {
        row.config.training.recipe: row for row in generate.zoo_table.read(generate.BUNDLED)
    }
    checked = 0
    for row in reached.rows():
        if row["views"] and row["recipe"] in packages:
            report = packages[row["recipe"]].report
            measure = report.measure(row["measure"])
            assert measure is not None
            assert f"{100 * measure.value:.1f}" == row["value"]
            checked += 1
    assert checked == 6


def test_the_list_of_recipes_says_what_to_expect() -> None:
    assert expectation(find_recipe("simvae-mnist")) == (
        "reached k-NN 94.9 % in 2 minutes of one CPU core"
    )
    assert expectation(find_recipe("vicreg-celeba-conv")) == (
        "reached k-NN 80.5 % in 1.5 M views, 21 minutes of one CPU core"
    )
    assert "no result recorded; published: 47.1 knn (paper)" in expectation(
        find_recipe("simvae-cifar10")
    )
    # Nobody else can train the recipes for a user's own images.
    own = [recipe for recipe in list_recipes() if "-images-" in recipe.name]
    assert {expectation(recipe) for recipe in own} == {"made for your own images"}
    assert all(map(expectation, list_recipes()))
