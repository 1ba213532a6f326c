"""``repzoo.sklearn.Embedder``: scikit-learn's own checks, and pipelines of real images."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import repzoo
from repzoo.sklearn import Embedder
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "zoo" / "bundled" / "simvae-mnist"
#: The checks of `check_estimator` that apply: all but those that transform a table of numbers.
CHECKS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_dont_overwrite_parameters",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_set_params",
    "check_valid_tag_types",
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[int]]:
    """200 files of digits and what they show."""
    folder = tmp_path_factory.mktemp("digits")
    table = pq.read_table(ROOT / "tests" / "data" / "mnist" / "test-00000-of-00001.parquet")
    rows = table.slice(0, 200).to_pylist()
    paths = [folder / f"{number}.png" for number in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        path.write_bytes(row["image"]["bytes"])
    return paths, [row["label"] for row in rows]


@pytest.mark.parametrize("check", CHECKS)
def test_it_passes_the_checks_of_scikit_learn(check: str) -> None:
    getattr(estimator_checks, check)("Embedder", Embedder(MODEL))


def test_a_pipeline_classifies_files(digits: tuple[list[Path], list[int]]) -> None:
    paths, labels = digits
    pipeline = make_pipeline(Embedder(MODEL), LogisticRegression(max_iter=2000))
    assert cross_val_score(pipeline, paths, labels, cv=3).mean() > 0.8
    # scikit-learn tries both settings, with copies of the pipeline.
    search = GridSearchCV(pipeline, {"embedder__normalize": [False, True]}, cv=2)
    search.fit(paths, labels)
    assert search.predict(paths[:20]).shape == (20,)


def test_its_output_is_that_of_the_encoder(digits: tuple[list[Path], list[int]]) -> None:
    paths = digits[0][:9]
    encoder = repzoo.load(MODEL)
    for options in ({}, {"normalize": True}, {"robust": True, "batch_size": 4}):
        embedder = Embedder(MODEL, **options)
        expected = encoder.embed(paths, **options)
        np.testing.assert_allclose(embedder.fit_transform(paths), expected, atol=1e-6)
    assert embedder.revision_ == encoder.revision
    assert embedder.get_feature_names_out().tolist() == [f"embedder{d}" for d in range(10)]
    frame = Embedder(MODEL).set_output(transform="pandas").fit_transform(paths)
    assert frame.shape == (9, 10)
    pixels = encoder.preprocess(paths)
    np.testing.assert_array_equal(Embedder(MODEL).fit_transform(pixels), encoder.embed(pixels))


def test_copies_load_the_same_revision_again(
    digits: tuple[list[Path], list[int]], tmp_path: Path
) -> None:
    package = tmp_path / "model"
    shutil.copytree(MODEL, package)
    embedder = Embedder(package).fit(None)
    expected = embedder.transform(digits[0][:3])
    data = pickle.dumps(embedder)
    assert len(data) < 2000
    np.testing.assert_array_equal(pickle.loads(data).transform(digits[0][:3]), expected)
    with pytest.raises(NotFittedError):
        clone(embedder).transform(digits[0][:3])
    shutil.rmtree(package)
    shutil.copytree(ROOT / "zoo" / "bundled" / "vae-mnist", package)
    with pytest.raises(repzoo.PackageError, match="but this Embedder was fitted with"):
        pickle.loads(data).transform(digits[0][:3])


def test_errors_are_those_of_the_encoder(
    digits: tuple[list[Path], list[int]], plain_package: Path
) -> None:
    with pytest.raises(repzoo.UnsupportedOperation, match="content posterior"):
        Embedder(plain_package, robust=True).fit(digits[0])
    with pytest.raises(repzoo.InvalidImage) as caught:
        Embedder(MODEL).fit_transform([digits[0][0], b"no image"])
    assert caught.value.index == 1


def test_without_scikit_learn_the_extra_is_named() -> None:
    code = "import sys; sys.modules['sklearn.base'] = None; import repzoo.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtra" in done.stderr
    assert "repzoo[sklearn]" in done.stderr
