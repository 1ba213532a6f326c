"""The evaluation protocol, compared with scikit-learn on real images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import repzoo
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from repzoo.packages.config import InputSpec
from repzoo_training.data import ImageDataset, load
from repzoo_training.errors import DataError
from repzoo_training.evaluation import (
    EvaluationReport,
    Head,
    Measure,
    evaluate,
    evaluate_dataset,
    knn_predict,
    linear_probe,
    mlp_probe,
    reconstruction_errors,
    represent,
)
from repzoo_training.evaluation import knn as knn_module
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

SAMPLES = Path(__file__).parents[1] / "data"
DIM = 12


class Projection:
    """Embeds digits by a fixed random projection, shifted and stretched by dimension."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.matrix = rng.normal(size=(784, DIM)) * np.geomspace(1e-3, 1e3, DIM)

    def embed(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        embeddings = (images.reshape(len(images), -1) / 255) @ self.matrix
        result: NDArray[np.float32] = embeddings.astype(np.float32)
        return result


@pytest.fixture(scope="module")
def train() -> ImageDataset:
    return load(SAMPLES / "mnist")


@pytest.fixture(scope="module")
def test() -> ImageDataset:
    return load(SAMPLES / "mnist", "test")


@pytest.fixture(scope="module")
def train_z(train: ImageDataset) -> NDArray[np.float32]:
    return represent(Projection(), train.images, batch_size=700)


@pytest.fixture(scope="module")
def test_z(test: ImageDataset) -> NDArray[np.float32]:
    return represent(Projection(), test.images)


def labels_of(data: ImageDataset) -> NDArray[np.int64]:
    assert data.labels is not None
    return data.labels


def bits_of(data: ImageDataset) -> NDArray[np.bool_]:
    """A multi-label task: the four bits of the digit."""
    bits: NDArray[np.bool_] = (labels_of(data)[:, None] >> np.arange(4)) % 2 == 1
    return bits


# k-NN


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("chunk_values", [2**25, 10_000])
@pytest.mark.parametrize("k", [1, 15])
def test_knn_is_scikit_learns(
    monkeypatch: pytest.MonkeyPatch,
    train: ImageDataset,
    test: ImageDataset,
    distance: Any,
    chunk_values: int,
    k: int,
) -> None:
    """On raw pixels with many close distances, in one chunk and in many."""
    monkeypatch.setattr(knn_module, "_CHUNK_VALUES", chunk_values)
    x, queries = (d.images.reshape(len(d), -1) / np.float32(255) for d in (train, test))
    reference = KNeighborsClassifier(k, metric=distance, algorithm="brute")
    reference.fit(x.astype(np.float64), labels_of(train))
    ours = knn_predict(x, labels_of(train), queries, k=k, distance=distance)
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, reference.predict(queries.astype(np.float64)))


def test_knn_votes_on_each_label(
    train: ImageDataset,
    test: ImageDataset,
    train_z: NDArray[np.float32],
    test_z: NDArray[np.float32],
) -> None:
    ours = knn_predict(train_z, bits_of(train), test_z)
    reference = KNeighborsClassifier(15).fit(train_z, bits_of(train))
    np.testing.assert_array_equal(ours, reference.predict(test_z))


def test_knn_far_from_the_origin() -> None:
    """Results are exact although ‖a‖² − 2ab + ‖b‖² loses distances of 1e-2 at norms of 1e3."""
    rng = np.random.default_rng(0)
    train = (1000 + rng.normal(scale=1e-2, size=(300, 8))).astype(np.float32)
    labels = np.arange(300)
    np.testing.assert_array_equal(knn_predict(train, labels, train, k=1), labels)


def test_knn_leaves_the_matmul_precision_as_it_was(train_z: NDArray[np.float32]) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        knn_predict(train_z, np.arange(len(train_z)), train_z[:5], k=1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 0; expected 1 to 20"),
        ({"k": 21}, "k is 21; expected 1 to 20"),
        ({"test_z": np.zeros((3, 5))}, "embeddings have 4 and 5 dimensions"),
        ({"train_y": np.zeros(7, int)}, "20 embeddings have 7 labels"),
        ({"train_y": np.zeros(20)}, "expected integers"),
        ({"train_z": np.full((20, 4), np.nan)}, "not finite"),
        ({"train_z": np.zeros(20)}, r"are \[20\]; expected \[N, D\]"),
    ],
)
def test_knn_refuses(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "train_z": np.zeros((20, 4)),
        "train_y": np.zeros(20, int),
        "test_z": np.zeros((3, 4)),
    }
    with pytest.raises(InvalidInput, match=message):
        knn_predict(**(arguments | change))


# Probes


def logits(head: Head, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = head.module(torch.from_numpy(embeddings)).numpy()
    return result


def test_linear_probe_is_scikit_learns(
    train: ImageDataset,
    test: ImageDataset,
    train_z: NDArray[np.float32],
    test_z: NDArray[np.float32],
) -> None:
    head = linear_probe(train_z, labels_of(train), task="digit", classes=train.classes)
    scaler = StandardScaler().fit(train_z.astype(np.float64))
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000)
    reference.fit(scaler.transform(train_z.astype(np.float64)), labels_of(train))
    theirs = reference.predict_log_proba(scaler.transform(test_z.astype(np.float64)))
    ours = torch.from_numpy(logits(head, test_z)).log_softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    np.testing.assert_array_equal(head.predict(test_z), theirs.argmax(axis=1))
    assert head.spec.file == "probes/digit.linear.onnx"
    assert head.spec.classes == train.classes
    assert head.spec.activation == "softmax"


def test_linear_probe_of_many_labels(
    train: ImageDataset,
    test: ImageDataset,
    train_z: NDArray[np.float32],
    test_z: NDArray[np.float32],
) -> None:
    head = linear_probe(train_z, bits_of(train))
    scaler = StandardScaler().fit(train_z.astype(np.float64))
    ours = logits(head, test_z)
    for column in range(4):
        reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000)
        reference.fit(scaler.transform(train_z), bits_of(train)[:, column])
        theirs = reference.decision_function(scaler.transform(test_z))
        np.testing.assert_allclose(ours[:, column], theirs, atol=2e-3)
    assert head.spec.multi_label
    np.testing.assert_array_equal(head.predict(test_z), ours > 0)


def test_mlp_probe(
    train: ImageDataset,
    test: ImageDataset,
    train_z: NDArray[np.float32],
    test_z: NDArray[np.float32],
) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    head = mlp_probe(train_z, labels_of(train), classes=train.classes, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [tuple(p.shape) for p in head.module.parameters()] == [
        (DIM, DIM),
        (DIM,),
        (10, DIM),
        (10,),
    ]

    again = mlp_probe(train_z, labels_of(train), classes=train.classes, seed=1)
    np.testing.assert_array_equal(logits(head, test_z), logits(again, test_z))
    other = mlp_probe(train_z, labels_of(train), classes=train.classes, seed=2)
    assert not np.array_equal(logits(head, test_z), logits(other, test_z))

    linear = linear_probe(train_z, labels_of(train), classes=train.classes)
    accuracy = {h: (h.predict(test_z) == labels_of(test)).mean() for h in (head, linear)}
    assert accuracy[head] > accuracy[linear] > 0.4


def test_dead_dimension_changes_nothing(
    train: ImageDataset, train_z: NDArray[np.float32], test_z: NDArray[np.float32]
) -> None:
    def widened(z: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.column_stack([z, np.full(len(z), 7, np.float32)])

    plain = linear_probe(train_z, labels_of(train))
    wide = linear_probe(widened(train_z), labels_of(train))
    np.testing.assert_allclose(
        logits(wide, widened(test_z)), logits(plain, test_z), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("probe", [linear_probe, mlp_probe])
@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.zeros(20, int), (), "has 1 classes; a probe needs at least two"),
        (np.arange(20), ("a", "b"), "has 2 classes, but labels for 20"),
        (np.zeros((20, 3), bool), ("a", "b", "c", "d"), "has 4 classes, but labels for 3"),
        (np.arange(20) - 1, (), "has the label -1"),
    ],
)
def test_probes_refuse(
    probe: Callable[..., Head], labels: Any, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        probe(np.zeros((20, 4)), labels, classes=classes)


# The protocol and its report


@pytest.fixture(scope="module")
def report(train: ImageDataset, test: ImageDataset) -> EvaluationReport:
    return evaluate_dataset(Projection(), train, test, task="digit").report


def test_report(
    report: EvaluationReport,
    train: ImageDataset,
    test: ImageDataset,
    train_z: NDArray[np.float32],
    test_z: NDArray[np.float32],
) -> None:
    assert [m.name for m in report.measures] == [
        "majority",
        "knn_cosine",
        "knn_euclidean",
        "linear",
        "mlp",
        "gmm_accuracy",
        "gmm_nmi",
        "gmm_ari",
        *["knn_fit", "linear_fit"] * 3,
    ]
    assert (report.dim, report.n_train, report.n_test) == (DIM, 2000, 500)
    assert (report.train_sha256, report.test_sha256) == (train.sha256, test.sha256)
    knn = report.measure("knn_euclidean")
    assert knn is not None
    predicted = KNeighborsClassifier(15).fit(train_z, labels_of(train)).predict(test_z)
    p = (predicted == labels_of(test)).mean()
    assert knn.value == pytest.approx(p)
    assert knn.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 500))
    assert knn.protocol == {"k": 15, "distance": "euclidean", "votes": "equal"}
    majority = report.measure("majority", "digit")
    assert majority is not None
    assert majority.value == pytest.approx(0.1)
    assert report.measure("majority", "hair") is None


def test_report_as_json_and_as_text(report: EvaluationReport) -> None:
    text = report.model_dump_json()
    assert EvaluationReport.model_validate_json(text) == report
    for measure in json.loads(text)["measures"]:
        assert measure["protocol"]
    table = report.table()
    knn = report.measure("knn_cosine")
    assert knn is not None
    assert "mnist: 12 dimensions, 2,000 train and 500 test images" in table
    assert "digit knn_cosine" in table
    assert f"{100 * knn.value:.2f} %" in table
    assert len({line.index("± s.e.") for line in table.splitlines() if "± s.e." in line}) == 1


def test_multi_label_report(
    train: ImageDataset,
    test: ImageDataset,
    train_z: NDArray[np.float32],
    test_z: NDArray[np.float32],
) -> None:
    names = ("one", "two", "four", "eight")
    measures, heads = evaluate(
        train_z, bits_of(train), test_z, bits_of(test), task="attributes", classes=names
    )
    assert [head.spec.file for head in heads] == [
        "probes/attributes.linear.onnx",
        "probes/attributes.mlp.onnx",
    ]
    linear = next(m for m in measures if m.name == "linear")
    right = heads[0].predict(test_z) == bits_of(test)
    assert linear.value == pytest.approx(right.mean())
    assert linear.by_class == pytest.approx(dict(zip(names, right.mean(axis=0), strict=True)))
    assert linear.standard_error == pytest.approx(right.mean(axis=1).std() / math.sqrt(500))
    majority = next(m for m in measures if m.name == "majority")
    assert majority.by_class == pytest.approx({"one": 0.5, "two": 0.6, "four": 0.6, "eight": 0.8})


def test_evaluating_a_package(
    tmp_path: Path, make_package: Callable[..., Path], train: ImageDataset, test: ImageDataset
) -> None:
    spec = InputSpec(height=28, width=28, channels=1)
    encoder = repzoo.load(make_package(tmp_path, input_spec=spec))
    evaluation = evaluate_dataset(encoder, train, test, batch_size=128)
    error = evaluation.report.measure("reconstruction")
    assert error is not None
    assert error.unit == "mean squared error"
    # the definition, in one line
    images = encoder.reconstruct(test.images).images
    squares = ((images - test.images / 255) ** 2).reshape(500, -1).mean(axis=1)
    assert error.value == pytest.approx(squares.mean(), rel=1e-5)
    assert error.standard_error == pytest.approx(squares.std() / math.sqrt(500), rel=1e-4)

    bare = repzoo.load(make_package(tmp_path, "bare", decoder=False, input_spec=spec))
    assert reconstruction_errors(bare, test.images) is None


def test_evaluating_without_labels(train: ImageDataset, test: ImageDataset) -> None:
    unlabelled = ImageDataset("unlabelled", test.images)
    with pytest.raises(DataError, match="nothing to measure"):
        evaluate_dataset(Projection(), unlabelled, unlabelled, measures=["knn", "reconstruction"])
    styles = evaluate_dataset(Projection(), unlabelled, unlabelled).report
    assert {m.task for m in styles.measures} == {"style_position", "style_scale", "style_flip"}

    class Blank(Projection):
        def reconstruct(self, images: NDArray[np.uint8]) -> SimpleNamespace:
            return SimpleNamespace(error=((images / 255) ** 2).mean(axis=(1, 2, 3)))

    report = evaluate_dataset(Blank(), unlabelled, unlabelled, measures=["reconstruction"]).report
    assert [m.name for m in report.measures] == ["reconstruction"]
    assert "reconstruction" in report.table()
    assert report.measures[0].value == pytest.approx(((test.images / 255) ** 2).mean(), rel=1e-5)

    with pytest.raises(DataError, match="classes of train is"):
        evaluate_dataset(Projection(), train, unlabelled)


def test_measure_of_scores() -> None:
    measure = Measure.of_scores("m", np.array([1.0, 0.0, 1.0, 1.0]), unit="accuracy", protocol={})
    assert measure.value == 0.75
    assert measure.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
