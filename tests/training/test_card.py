"""Parts of a model card. Complete cards are tested in test_export.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.repocard_data import ModelCardData, model_index_to_eval_results
from repzoo_training.evaluation.report import EvaluationReport, Measure, Unit
from repzoo_training.export.card.details import _network
from repzoo_training.export.card.front_matter import _licence, _results
from repzoo_training.export.card.render import _citation
from repzoo_training.export.costs import graph_costs
from repzoo_training.export.graphs import write_graph
from repzoo_training.networks import NetworkSpec
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.recipes.registry import list_recipes


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (NetworkSpec(), "mlp, widths 2000-500-500, linear head"),
        (
            NetworkSpec(kind="resnet18", head="none"),
            "resnet18, widths 64-128-256-512, stem 3×3 of stride 1, no head: the backbone's "
            "features",
        ),
        (
            NetworkSpec(kind="resnet50", stem="imagenet"),
            "resnet50, widths 64-128-256-512, stem 7×7 of stride 2 and max-pooling, linear head",
        ),
        (
            NetworkSpec(kind="conv"),
            "conv, widths 32-64-128-256, patches 4×4, linear head",
        ),
        (
            NetworkSpec(kind="vit"),
            "vit, widths 192, patches 4×4, depth 12, 3 heads, linear head",
        ),
    ],
)
def test_all_of_a_network_is_said(spec: NetworkSpec, words: str) -> None:
    assert _network(spec) == words


def test_licences_are_the_hubs(tmp_path: Path) -> None:
    assert _licence("Apache-2.0", tmp_path) == {"license": "apache-2.0"}
    assert _licence("other", tmp_path) == {"license": "other"}
    assert _licence("My Licence 1.0", tmp_path) == {
        "license": "other",
        "license_name": "my-licence-1.0",
    }
    (tmp_path / "LICENSE").write_text("Non-commercial research.\n")
    for licence in ("other", "My Licence 1.0"):
        data = ModelCardData(**_licence(licence, tmp_path))
        assert (data.license, data.license_link) == ("other", "LICENSE")


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_the_paper_of_every_recipe_has_a_bibtex_entry(recipe: Recipe) -> None:
    if recipe.paper is None:
        return
    entry = _citation(recipe.paper)
    assert f"eprint = {{{recipe.paper.removeprefix('arXiv:')}}}" in entry
    assert "title = {" in entry
    assert "author = {" in entry


def test_an_unknown_paper_is_still_cited() -> None:
    assert "eprint = {2501.00001}" in _citation("arXiv:2501.00001")
    assert _citation("https://example.com/paper.pdf") == _citation(None) == ""


def test_costs_are_those_of_the_graph(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1),
        torch.nn.ConvTranspose2d(8, 4, 2, stride=2),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 8 * 8, 5),
    ).eval()
    path = tmp_path / "graph.onnx"
    write_graph(network, path, {"x": torch.zeros(2, 3, 8, 8)}, output_names=["y"])
    parameters = sum(p.numel() for p in network.parameters())
    products = 4 * 4 * 8 * 27 + 4 * 4 * 8 * 4 * 4 + 256 * 5
    assert graph_costs(path) == (parameters, products)


def measure(name: str, value: float, unit: Unit, task: str | None = None) -> Measure:
    return Measure(
        name=name, task=task, value=value, standard_error=0, n=9, unit=unit, protocol={"k": 15}
    )


def test_results_are_grouped_by_task_and_every_unit_has_a_metric() -> None:
    report = EvaluationReport(
        dataset="my-photos",
        n_train=9,
        n_test=9,
        dim=2,
        measures=(
            measure("majority", 0.1, "accuracy", "class"),
            measure("knn_cosine", 0.98765, "accuracy", "class"),
            measure("nmi", 0.5, "normalised mutual information", "class"),
            measure("ari", 0.4, "adjusted Rand index", "class"),
            measure("flip", 0.75, "accuracy", "style_flip"),
            measure("crop", 0.3, "R²", "style_crop"),
            measure("reconstruction", 0.0123456789, "mean squared error"),
            measure("fid", 12.5, "squared Fréchet distance"),
        ),
    )
    results = _results(report)
    assert [result["task"]["name"] for result in results] == [
        "class",
        "style_flip",
        "style_crop",
        "representation",
    ]
    _, read = model_index_to_eval_results([{"name": "mine", "results": results}])
    assert {each.metric_name: (each.metric_type, each.metric_value) for each in read} == {
        "knn_cosine": ("accuracy", 98.77),
        "nmi": ("nmi", 0.5),
        "ari": ("ari", 0.4),
        "flip": ("accuracy", 75.0),
        "crop": ("r_squared", 0.3),
        "reconstruction": ("mse", 0.012346),
        "fid": ("fid", 12.5),
    }
    assert {each.dataset_type for each in read} == {"my-photos"}
