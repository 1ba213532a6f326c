"""Cross-validation against scikit-learn, on real digits embedded by the bundled encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import repzoo
from repzoo_training.data import ImageDataset, load
from repzoo_training.errors import DataError
from repzoo_training.evaluation.inputs import Labels
from repzoo_training.probing.cross_validation import cross_validate, folds_of
from repzoo_training.probing.figures import confusion_figure
from repzoo_training.probing.labels import Answers, answers_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, multilabel_confusion_matrix
from sklearn.metrics import precision_recall_fscore_support as scores
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load(ROOT / "tests" / "data" / "mnist", "test", progress=False)


@pytest.fixture(scope="module")
def embeddings(digits: ImageDataset) -> np.ndarray:
    return repzoo.load(ROOT / "zoo" / "bundled" / "simvae-mnist").embed(digits.images)


def left_out(z: np.ndarray, y: Labels, part: np.ndarray, classifier: object) -> np.ndarray:
    """Return scikit-learn's prediction of each row, fitted to the other parts."""
    said = np.empty_like(y)
    for fold in np.unique(part):
        model = make_pipeline(StandardScaler(), classifier)
        model.fit(z[part != fold], y[part != fold])
        said[part == fold] = model.predict(z[part == fold])
    return said


def test_a_probe_is_measured_like_by_scikit_learn(
    digits: ImageDataset, embeddings: np.ndarray
) -> None:
    answers = answers_of(digits)
    head, report, confusion = cross_validate(
        embeddings, digits, answers, task="number", folds=4, seed=3, progress=False
    )
    assert digits.contents is not None
    things = np.unique(digits.contents, return_inverse=True)[1]
    part = folds_of(answers, things, 4, 3)
    said = left_out(embeddings, answers.values, part, LogisticRegression(max_iter=1000))
    expected = confusion_matrix(answers.values, said)
    # L-BFGS stops earlier in scikit-learn: an image on the border can be on either side of it.
    assert np.abs(confusion - expected).sum() <= 2
    assert report.accuracy == np.trace(confusion) / 500
    assert report.accuracy > 0.9
    assert report.majority == 0.1

    # The numbers per class follow from the confusion matrix.
    actual, predicted = np.repeat(np.indices((10, 10)).reshape(2, -1), confusion.ravel(), axis=1)
    for measured, wanted in zip(
        zip(*((c.precision, c.recall, c.f1, c.count) for c in report.classes), strict=True),
        scores(actual, predicted),
        strict=True,
    ):
        np.testing.assert_allclose(measured, wanted)
    assert report.balanced == pytest.approx(balanced_accuracy_score(actual, predicted))
    worst = report.confused[0]
    assert confusion[int(worst.actual), int(worst.predicted)] == worst.images
    # The probe that is kept has seen all images.
    assert (head.predict(embeddings) == answers.values).mean() > report.accuracy


def test_a_multi_label_probe_is_measured_per_label(
    digits: ImageDataset, embeddings: np.ndarray
) -> None:
    assert digits.labels is not None
    flags = np.stack([digits.labels % 2 == 0, digits.labels < 5, digits.labels == 7], axis=1)
    answers = Answers(("even", "small", "seven"), flags, np.ones(500, bool))
    _, report, confusion = cross_validate(
        embeddings, digits, answers, task="traits", folds=3, progress=False
    )
    assert digits.contents is not None
    part = folds_of(answers, np.unique(digits.contents, return_inverse=True)[1], 3, 0)
    said = left_out(
        embeddings, flags, part, MultiOutputClassifier(LogisticRegression(max_iter=1000))
    )
    assert np.abs(confusion - multilabel_confusion_matrix(flags, said)).sum() <= 4
    assert report.multi_label
    assert report.accuracy == pytest.approx(confusion[:, [0, 1], [0, 1]].sum() / 1500)
    assert report.exact is not None
    assert report.majority < report.exact <= report.accuracy
    assert report.confused == ()
    assert "all labels right" in report.table()


def test_copies_are_left_out_together_and_every_part_has_every_class() -> None:
    random = np.random.default_rng(0)
    things = random.integers(0, 60, 200)
    values = things % 3  # a thing has one class
    answers = Answers(("a", "b", "c"), values, np.ones(200, bool))
    part = folds_of(answers, things, 5, 0)
    for thing in np.unique(things):
        assert len(np.unique(part[things == thing])) == 1
    for fold in range(5):
        of_part = np.unique(things[part == fold])
        assert np.abs(np.bincount(of_part % 3, minlength=3) - len(of_part) / 3).max() <= 1
    assert (folds_of(answers, things, 5, 0) == part).all()
    assert (folds_of(answers, things, 5, 1) != part).any()


def test_a_group_of_images_is_left_out_together(
    digits: ImageDataset, embeddings: np.ndarray
) -> None:
    """Noise is predicted perfectly from copies of itself, unless they are left out together."""
    random = np.random.default_rng(0)
    noise = np.repeat(random.normal(size=(20, 40)).astype(np.float32), 2, axis=0)
    values = np.repeat(random.permutation(20) % 2, 2)
    images = np.zeros((40, 1, 1, 1), np.uint8)
    groups = np.repeat(np.arange(20), 2)
    answers = Answers(("a", "b"), values, np.ones(40, bool))
    leaking = cross_validate(
        noise, ImageDataset("noise", images), answers, task="t", progress=False
    )
    honest = cross_validate(
        noise, ImageDataset("noise", images, groups=groups), answers, task="t", progress=False
    )
    assert leaking.report.accuracy > 0.9
    assert honest.report.accuracy < 0.75


@pytest.mark.parametrize(
    ("classes", "values", "error"),
    [
        (("a", "b"), np.array([0, 0, 0, 1]), "there is 1 image of the class 'b'"),
        (("a", "b", "c"), np.array([0, 0, 1, 1]), "there are no images of the class 'c'"),
        (
            ("x", "y"),
            np.array([[1, 1], [0, 1], [0, 0], [1, 1]], bool),
            "there is 1 image without the label 'y'",
        ),
        (("a", "b"), np.array([0, 0, 1, 1]), "4 different images cannot be divided into 5 parts"),
    ],
)
def test_too_few_images_are_refused(classes: tuple[str, ...], values: Labels, error: str) -> None:
    answers = Answers(classes, values, np.ones(4, bool))
    with pytest.raises(DataError, match=error):
        folds_of(answers, np.arange(4), 5, 0)


@pytest.mark.parametrize("classes", [2, 30, 100])
def test_confusion_matrices_of_any_size_are_drawn(classes: int) -> None:
    confusion = np.eye(classes, dtype=np.int64) * 1200
    names = [f"class {number} with a name that is too long" for number in range(classes)]
    assert confusion_figure(confusion, names).startswith(b"\x89PNG")
