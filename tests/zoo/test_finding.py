"""`zoo find` and `zoo diff`: search and compare packages by their cards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import repzoo
from repzoo.catalogue.search import Condition, parse_size
from repzoo.packages.metrics import measures
from repzoo.packages.package import write_manifest

DATA = {"dataset": "cifar10", "test_sha256": "ab"}


def a_measure(name: str, value: float, **more: Any) -> dict[str, Any]:
    record = {"name": name, "task": "class", "value": value, "standard_error": 0.001}
    return record | {"n": 100, "unit": "accuracy", "protocol": {"k": 15}} | more


@pytest.fixture
def remake(flat_hub: Path) -> Callable[..., Path]:
    """Change the config and the measures of a package in the hub, or add a package like it."""

    def remake(
        name: str, *changes: dict[str, Any], like: str = "tiny", data: Any = DATA, **config: Any
    ) -> Path:
        path = flat_hub / name
        if not path.exists():
            shutil.copytree(flat_hub / like, path)
        record = json.loads((path / "config.json").read_text()) | {"name": name} | config
        (path / "config.json").write_text(json.dumps(record))
        metrics = {"evaluation": {**data, "measures": list(changes)}}
        (path / "metrics.json").write_text(json.dumps(metrics))
        return write_manifest(path).path

    return remake


@pytest.fixture
def hub(remake: Callable[..., Path], flat_hub: Path) -> Path:
    """The packages tiny, plain and third; plain has neither posterior nor decoder."""
    facts = json.loads((flat_hub / "tiny" / "config.json").read_text())["training"]
    remake(
        "tiny",
        a_measure("knn_cosine", 0.91),
        a_measure("knn_euclidean", 0.93),
        a_measure("reconstruction", 0.02, task=None, unit="mean squared error"),
        method="simvae",
        training=facts | {"dataset": "fashion_mnist"},
    )
    remake(
        "third",
        a_measure("knn_cosine", 0.95),
        a_measure("reconstruction", 0.01, task=None, unit="mean squared error"),
        method="simvae",
        summary="The third of them",
        training=facts | {"dataset": "cifar10"},
    )
    remake("plain", a_measure("knn_cosine", 0.97), method="vicreg")
    return flat_hub


def names(report: Any) -> list[str]:
    return [line["name"] for line in report]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["plain", "third", "tiny"]),
        (["--method", "vicreg"], ["plain"]),
        (["--method", "SimVAE"], ["third", "tiny"]),
        (["--dataset", "fashion-mnist"], ["tiny"]),
        (["--has-posterior"], ["third", "tiny"]),
        (["--has-decoder", "--method=vicreg"], []),
        (["--has-uncertainty"], []),
        (["--task", "digit"], ["third", "tiny"]),
        (["--max-size", "1KB"], []),
        (["--max-size", "1MiB"], ["plain", "third", "tiny"]),
        (["--metric", "knn>0.9"], ["plain", "third", "tiny"]),
        (["--metric", "knn>94%"], ["plain", "third"]),
        (["--metric", "class.knn_euclidean>=0.93"], ["tiny"]),
        (["--metric", "reconstruction<0.5"], ["third", "tiny"]),
        (["--metric", "reconstruction<0.5", "--metric", "knn<0.92"], ["tiny"]),
        (["--metric", "knn>0.9", "--sort", "name"], ["plain", "third", "tiny"]),
        (["third", "THEM"], ["third"]),
        (["none-of-them"], []),
    ],
)
def test_find(zoo_here: Any, hub: Path, options: list[str], expected: list[str]) -> None:
    assert names(zoo_here.json("find", *options)) == expected


def test_find_sorts_by_the_first_metric(zoo_here: Any, hub: Path) -> None:
    found = zoo_here.json("find", "--metric", "knn>0")
    assert [line["metrics"] for line in found] == [
        {"class.knn_cosine": 0.97},
        {"class.knn_cosine": 0.95},
        {"class.knn_euclidean": 0.93},
    ]
    table = zoo_here("find", "--metric", "knn>0").splitlines()
    assert table[0].split()[-1] == "KNN"
    assert table[1].startswith("plain")
    assert "0.97 ± 0.001" in table[1]
    by_size = zoo_here.json("find", "--sort", "size")
    assert [line["size"] for line in by_size] == sorted(line["size"] for line in by_size)


def test_find_in_the_cache(zoo_here: Any, hub: Path) -> None:
    zoo_here("pull", "third")
    shutil.rmtree(hub)
    assert names(zoo_here.json("find", "--cached", "--metric", "knn>0.9")) == ["third"]
    assert "no such folder" in zoo_here("find", status=1)


def test_a_search_without_results_lists_the_existing_values(zoo_here: Any, hub: Path) -> None:
    answer = zoo_here("find", "--method", "byol", "--metric", "fid<20")
    assert "None of the 3 packages" in answer
    assert "methods: simvae, vicreg" in answer
    assert "class.knn_euclidean" in answer
    assert zoo_here.json("find", "--method", "byol") == []


def test_wrong_usage_of_find(zoo_here: Any, hub: Path) -> None:
    wrong = {
        ("--metric", "knn"): "'knn' is not a condition such as 'knn>0.9'",
        ("--metric", "knn>much"): "is not a condition",
        ("--metric", "knn>1e"): "is not a condition",
        ("--max-size", "big"): "'big' is not a size",
        ("--cached", "--hub", "x"): "cannot be combined",
        ("--sort", "metric"): "requires --metric",
    }
    for options, message in wrong.items():
        assert message in zoo_here("find", *options, status=2)


def test_sizes() -> None:
    sizes = {
        "1000": 1000,
        "1000B": 1000,
        "50MB": 50_000_000,
        "50 mb": 50_000_000,
        "1.5GiB": 3 * 2**29,
        "2k": 2000,
    }
    assert {text: parse_size(text) for text in sizes} == sizes
    for text in ("", "MB", "-1MB", "1iB", "1TB", "nan", "9" * 400):
        with pytest.raises(repzoo.InvalidInput):
            parse_size(text)
    assert Condition.parse(" knn >= 90 % ") == Condition("knn", ">=", 0.9)


def test_diff(zoo_here: Any, hub: Path) -> None:
    report = zoo_here.json("diff", "tiny", "third")
    assert report["a"]["name"] == "tiny"
    assert report["config"]["method"] == {"a": "simvae", "b": "simvae", "same": True}
    assert report["config"]["training.dataset"] == {
        "a": "fashion_mnist",
        "b": "cifar10",
        "same": False,
    }
    assert report["config"]["probes.digit.linear"] == {"a": 10, "b": 10, "same": True}
    assert {key: pair["better"] for key, pair in report["metrics"].items()} == {
        "class.knn_cosine": "b",
        "class.knn_euclidean": None,  # only one package has it
        "reconstruction": "b",
    }
    assert report["metrics"]["class.knn_euclidean"]["b"] is None
    assert set(report["files"]["changed"]) == {"config.json", "metrics.json"}
    assert "encoder.onnx" in report["files"]["unchanged"]

    text = zoo_here("diff", "tiny", "third")
    assert "≠  class.knn_cosine" in text
    assert "0.95 ± 0.001 *" in text
    assert "latent_dim" not in text
    assert "latent_dim" in zoo_here("diff", "tiny", "third", "--all")


def test_diff_takes_names_revisions_and_paths(zoo_here: Any, hub: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(hub / "plain", tmp_path / "copy")
    same = zoo_here.json("diff", "plain", copy)
    assert same["files"]["changed"] == []
    revision = same["a"]["revision"]
    assert "are equal" in zoo_here("diff", f"plain@{revision[:10]}", copy)
    files = zoo_here.json("diff", "plain", "tiny")["files"]
    assert "decoder.onnx" in files["added"]
    assert "decoder.onnx" in zoo_here.json("diff", "tiny", "plain")["files"]["removed"]
    assert "has no package 'nothing'" in zoo_here("diff", "plain", "nothing", status=1)


def test_only_comparable_numbers_have_a_better_side(
    zoo_here: Any, remake: Callable[..., Path]
) -> None:
    one = [
        a_measure("knn_cosine", 0.90),
        a_measure("linear", 0.90, standard_error=0.01),
        a_measure("majority", 0.1),
        a_measure("odd", 0.1, unit="parsecs"),
        a_measure("mlp", 0.90),
    ]
    two = [
        a_measure("knn_cosine", 0.95, protocol={"k": 5}),
        a_measure("linear", 0.91, standard_error=0.01),
        a_measure("majority", 0.2),
        a_measure("odd", 0.2, unit="parsecs"),
        a_measure("mlp", 0.90),
    ]
    remake("tiny", *one)
    remake("third", *two)
    pairs = zoo_here.json("diff", "tiny", "third")["metrics"]
    assert {key: pair["better"] for key, pair in pairs.items()} == {
        "class.knn_cosine": None,
        "class.linear": "b",
        "class.majority": None,
        "class.odd": None,
        "class.mlp": None,
    }
    assert pairs["class.linear"]["within_error"]
    assert "≈  class.linear" in zoo_here("diff", "tiny", "third")
    remake("third", *two, data={**DATA, "test_sha256": "other"})
    pairs = zoo_here.json("diff", "tiny", "third")["metrics"]
    assert not any(pair["better"] for pair in pairs.values())


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "text",
        {"evaluation": None},
        {"evaluation": {"measures": None}},
        {"evaluation": {"measures": [None, 1, {}, {"name": "x"}, {"name": 1, "value": 1}]}},
        {"evaluation": {"measures": [a_measure("x", float("nan")), a_measure("y", 10**400)]}},
        {"evaluation": {"measures": [a_measure("x", True), a_measure("x", "high")]}},  # type: ignore[arg-type]
        {"onnx_against_torch": [1]},
        {"probes": {}},
        {"probes": [None, {"task": "x", "kind": 1}, {"task": "x", "kind": "y", "accuracy": "1"}]},
    ],
)
def test_metrics_of_any_shape_are_read(content: Any) -> None:
    assert measures(content) == {}


def test_a_card_cannot_take_over_the_terminal(
    zoo_here: Any, remake: Callable[..., Path], flat_hub: Path
) -> None:
    remake("tiny", summary="\x1b[2J\x1b]0;pwned\x07\nFake line")
    for command in (["info", "tiny"], ["diff", "tiny", "plain"]):
        text = zoo_here(*command)
        assert "\x1b" not in text
        assert "\nFake line" not in text
    (flat_hub / "tiny" / "\x1b[2J").touch()
    message = zoo_here("verify", flat_hub / "tiny", status=1)
    assert "\x1b" not in message
    assert "[2J is not in the manifest" in message


def test_what_json_prints_is_json(zoo_here: Any, flat_hub: Path) -> None:
    (flat_hub / "tiny" / "metrics.json").write_text('{"a": NaN, "b": [Infinity, 1]}')
    write_manifest(flat_hub / "tiny")
    for path in ("tiny", flat_hub / "tiny"):
        assert zoo_here.json("info", path)["metrics"] == {"a": None, "b": [None, 1]}


def test_a_hub_cannot_fill_memory_with_a_card(zoo_here: Any, flat_hub: Path) -> None:
    manifest = json.loads((flat_hub / "tiny" / "manifest.json").read_text())
    manifest["files"]["metrics.json"]["size"] = 2**40
    (flat_hub / "tiny" / "manifest.json").write_text(json.dumps(manifest))
    assert "metrics.json has more than" in zoo_here("info", "tiny", status=1)
    assert "metrics.json has more than" in zoo_here("list")
