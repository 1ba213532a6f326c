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
def test_the_tables_have_the_numbers_of_the_package(name: str) -> None:
    metrics = json.loads((ROOT / "zoo" / "bundled" / name / "metrics.json").read_text())
    values: dict[str, float] = {}  # of the first task: on CelebA gender
    for measure in metrics["evaluation"]["measures"]:
        values.setdefault(measure["name"], 100 * measure["value"])
    rows = re.findall(rf"^\| `{name}` \|.*$", README, re.MULTILINE)
    of_uncertainty = [row for row in rows if "%" in row]
    (accuracy,) = [row for row in rows if row not in of_uncertainty]
    for name_of in ("knn_euclidean", "knn_cosine", "linear", "mlp"):
        shown = (f"{values[name_of]:.{digits}f} ±" for digits in (1, 2))
        assert any(each in accuracy for each in shown), name_of
    if "uncertainty" not in metrics:  # without labels there is nothing to measure it by
        return
    (uncertainty,) = of_uncertainty
    report = metrics["uncertainty"]
    assert f"{100 * report['wrong']:.1f} %" in uncertainty
    scores = {score["name"]: score for score in report["scores"]}
    for score in ("uncertainty", "variance", "reconstruction"):
        if score in scores:  # not every encoder has a variance
            assert f"{scores[score]['r_auroc'][0]:.3f}".removeprefix("0") in uncertainty
