"""What README.md promises: its files exist, and its numbers are those of the bundled packages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BUNDLED = sorted(path.name for path in (ROOT / "zoo" / "bundled").iterdir() if path.is_dir())


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_bundled_package_is_in_the_readme() -> None:
    assert {"simvae-mnist", "simvae-fashion-mnist", "vae-mnist"} <= set(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_table_has_the_numbers_of_the_package(name: str) -> None:
    metrics = json.loads((ROOT / "zoo" / "bundled" / name / "metrics.json").read_text())
    values = {m["name"]: 100 * m["value"] for m in metrics["evaluation"]["measures"]}
    first, second = re.findall(rf"^\| `{name}` \|.*$", README, re.MULTILINE)
    accuracy, uncertainty = (second, first) if "%" in first else (first, second)
    for measure in ("knn_euclidean", "knn_cosine", "linear", "mlp"):
        assert f"{values[measure]:.2f}" in accuracy
    report = metrics["uncertainty"]
    assert f"{100 * report['wrong']:.1f} %" in uncertainty
    scores = {score["name"]: score for score in report["scores"]}
    for score in ("uncertainty", "variance", "reconstruction"):
        assert f"{scores[score]['r_auroc'][0]:.3f}".removeprefix("0") in uncertainty
