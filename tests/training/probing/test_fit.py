"""``zoo probe fit``: from labelled images to a package with a probe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import repzoo
from click.testing import CliRunner, Result
from PIL import Image
from repzoo.cli import import_command
from repzoo.errors import PackageError
from repzoo.packages.config import InputSpec, ResizePolicy
from repzoo.packages.metrics import measures
from repzoo.packages.package import Package
from repzoo.runtime.golden import check_golden
from repzoo_training.data import load
from repzoo_training.errors import DataError
from repzoo_training.evaluation import probes

Fit = Callable[..., Result]


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Run each package only once before its first load."""


@pytest.fixture
def fit() -> Fit:
    """``fit(*arguments, status=0)`` runs ``zoo probe fit``; errors are raised."""

    def run(*arguments: object, status: int = 0) -> Result:
        words = ["fit", *map(str, arguments)]
        result = CliRunner().invoke(import_command("probe"), words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Dark and bright noise, in class folders, and some bright noise as a test split."""
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 128), ("test/dark", 0), ("test/bright", 128)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(4 if "test" in name else 12):
            pixels = random.integers(low, low + 128, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_class_folders_become_a_probe(
    fit: Fit, photos: Path, tiny_package: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = fit(tiny_package, "--data", photos, "--task", "light", "--out", out, "--name", "lamp")
    assert "light (linear): 24 images of photos, 2 classes, cross-validated in 5 parts" in (
        result.stdout
    )
    assert "test split, 8 images: 100.0 %" in result.stdout
    assert f"zoo serve --models {out}" in result.stdout

    encoder = repzoo.load(out, provider="cpu")
    check_golden(encoder)
    assert encoder.config.name == "lamp"
    assert [probe.task for probe in encoder.config.probes] == ["digit", "attributes", "light"]
    predicted = encoder.probe([photos / "dark" / "0.png", photos / "bright" / "0.png"], "light")
    assert predicted.labels == ["dark", "bright"]
    assert predicted.classes == ("bright", "dark")

    # Everything else is that of the old package.
    old = Package.open(tiny_package)
    for file in ("encoder.onnx", "decoder.onnx", "prior.npz", "probes/digit.linear.onnx"):
        assert (out / file).read_bytes() == (old.path / file).read_bytes()
    card = (out / "README.md").read_text()
    assert '`encoder.probe("image.png", "' in card
    assert "## Probe light.linear" in card
    assert "figures/confusion-light.linear.png" in card
    assert (out / "figures" / "confusion-light.linear.png").exists()
    metrics = json.loads((out / "metrics.json").read_text())
    (report,) = metrics["probes"]
    assert report["accuracy"] > 0.9
    assert report["dataset"] == "photos"
    assert measures(metrics)["light.linear"].value == report["accuracy"]  # for zoo find and diff

    # A package with a probe of one's own gets another one.
    labels = tmp_path / "labels.csv"
    rows = [f"{path.relative_to(photos)},{path.stem}" for path in sorted(photos.glob("dark/?.png"))]
    labels.write_text("\n".join(["file,remainder", *(f"{r[:-1]}{int(r[-1]) % 2}" for r in rows)]))
    second = tmp_path / "second"
    more = ("--task", "second", "--out", second, "--labels", labels, "--folds", 2)
    result = fit(out, "--data", photos, *more)
    assert "14 images have no row" in result.stderr
    assert [r["task"] for r in json.loads((second / "metrics.json").read_text())["probes"]] == [
        "light",
        "second",
    ]
    assert (second / "README.md").read_text().count("## Probe") == 2
    with pytest.raises(PackageError, match="already has a probe 'light': choose another --task"):
        fit(out, "--data", photos, "--task", "light", "--out", tmp_path / "third")


def test_columns_of_a_csv_file_are_labels(
    fit: Fit,
    photos: Path,
    plain_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "MLP_STEPS", 300)
    lines = [
        f"{folder}/{number}.png, {'Yes' if folder == 'bright' else 'no'},{number % 2}"
        for folder in ("bright", "dark")
        for number in range(12)
    ]
    labels = tmp_path / "labels.csv"
    labels.write_text("\ufeff" + "\n".join(["path, bright, odd", *lines]) + "\n")
    out = tmp_path / "out"
    kinds = ("--kind", "linear", "--kind", "mlp", "--folds", 2)
    result = fit(
        plain_package, "--data", photos, "--task", "traits", "--out", out, "--labels", labels,
        *kinds,
    )  # fmt: skip
    assert "traits (linear): 24 images of photos, 2 labels" in result.stdout
    assert "traits (mlp)" in result.stdout
    encoder = repzoo.load(out, provider="cpu")
    for kind in ("linear", "mlp"):
        answer = encoder.probe(photos / "bright" / "0.png", "traits", kind)
        assert answer.classes == ("bright", "odd")
        assert "bright" in answer.labels[0]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "needs a header"),
        ("file\na.png\n", "needs a header"),
        ("file,a,a\n", "every column of labels needs a name of its own"),
        ("file,label\nnone.png,x\n", "line 2: .*none.png: No such file or directory"),
        ("file,label\ndark/0.png,x,y\n", "line 2 has 3 columns; expected 2"),
        ("file,label\ndark/0.png,\n", "line 2: 'label' is empty"),
        ("file,a,b\ndark/0.png,1,maybe\n", "line 2: 'b' is 'maybe'; .* expected 1 or 0"),
        ("file,label\ndark/0.png,x\ncopy.png,y\n", "line 3: copy.png has other labels"),
        ("file,label\ntest/dark/0.png,x\n", "none of the images that .* names can be used"),
        ("file,label\ndark/0.png,x\ndark/1.png,x\n", "a probe needs at least two"),
        ("file,label\n\x00\xff", "cannot be read as CSV in UTF-8"),
    ],
)
def test_bad_files_of_labels_are_refused(
    fit: Fit, photos: Path, plain_package: Path, tmp_path: Path, text: str, error: str
) -> None:
    shutil.copyfile(photos / "dark" / "0.png", photos / "copy.png")
    labels = tmp_path / "labels.csv"
    labels.write_bytes(text.encode("latin-1"))
    with pytest.raises((DataError, repzoo.InvalidInput), match=error):
        fit(
            plain_package, "--data", photos, "--task", "t", "--out", tmp_path / "out",
            "--labels", labels, "--folds", 2,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_fitted_is_refused(
    fit: Fit, photos: Path, plain_package: Path, tmp_path: Path
) -> None:
    data = ("--data", photos, "--out", tmp_path / "out")
    result = fit(plain_package, *data, "--task", "My Task", status=2)
    assert "'My Task' cannot name a task" in result.output
    with pytest.raises(PackageError, match="'My Model' cannot name a model"):
        fit(plain_package, *data, "--task", "light", "--name", "My Model")
    with pytest.raises(DataError, match="photos has no attributes"):
        fit(plain_package, *data, "--task", "light", "--multi-label")
    with pytest.raises(DataError, match="dark has no labels: put the images of each class in"):
        fit(plain_package, "--data", photos / "dark", "--out", tmp_path / "out", "--task", "light")
    assert not (tmp_path / "out").exists()
    result = fit(plain_package, "--data", photos, "--out", photos, "--task", "light", status=2)
    assert "exists already" in result.output


def test_bursts_are_left_out_together(
    fit: Fit, make_package: Callable[..., Path], tmp_path: Path
) -> None:
    """Two copies of each photo with other pixels: without groups, one predicts the other."""
    random = np.random.default_rng(0)
    for number in range(40):
        pixels = random.integers(0, 255, (8, 8), dtype=np.uint8)
        folder = tmp_path / "photos" / "ab"[number % 2] / str(number)
        folder.mkdir(parents=True)
        for shift in (0, 1):
            Image.fromarray(pixels + np.uint8(shift)).save(folder / f"{shift}.png")
    package = make_package(tmp_path, "wide", latent_dim=48)
    arguments = (package, "--data", tmp_path / "photos", "--task", "chance")
    result = fit(*arguments, "--out", tmp_path / "grouped", "--group-by", "folder")
    assert "40 groups" in result.stderr
    fit(*arguments, "--out", tmp_path / "alone")
    grouped, alone = (
        json.loads((tmp_path / name / "metrics.json").read_text())["probes"][0]["accuracy"]
        for name in ("grouped", "alone")
    )
    assert grouped < 0.75 < alone


def test_files_that_cannot_be_read_are_skipped(
    fit: Fit, photos: Path, plain_package: Path, tmp_path: Path
) -> None:
    (photos / "dark" / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    result = fit(plain_package, "--data", photos, "--task", "light", "--out", out, status=3)
    assert "24 images of photos" in result.stdout


def test_what_a_killed_run_has_left_is_removed(
    fit: Fit, photos: Path, plain_package: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (plain_package, "--data", photos, "--task", "light", "--out", out)
    command = [Path(sys.executable).with_name("zoo"), "probe", "fit", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(tmp_path.glob(".out.*")):
            time.sleep(0.005)
        process.kill()
    assert len(list(tmp_path.glob(".out.*"))) == 1
    assert not out.exists()
    fit(*arguments)
    assert not list(tmp_path.glob(".out.*"))
    assert Package.open(out).config.name == "plain"


def test_held_out_images_are_read_once(
    fit: Fit,
    photos: Path,
    plain_package: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.rmtree(photos / "test")
    (photos / "dark" / "broken.png").write_bytes(b"no image")
    arguments = (plain_package, "--data", photos, "--task", "light", "--out", tmp_path / "out")
    result = fit(*arguments, "--split", "0.25", status=3)
    assert "light (linear): 18 images of photos" in result.stdout
    assert "test split, 6 images" in result.stdout
    # Whoever reads the images warns of the broken one.
    assert sum("broken.png" in each.getMessage() for each in caplog.records) == 1


def test_images_are_prepared_as_by_the_package(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    """An imported encoder may see the middle of a larger image."""
    random = np.random.default_rng(0)
    for number in range(3):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    policy = ResizePolicy(size=(12, 12), filter="bicubic")
    spec = InputSpec(height=8, width=8, channels=3, resize=policy)
    encoder = repzoo.load(make_package(tmp_path, "imported", input_spec=spec), provider="cpu")
    expected = encoder.preprocess(sorted((tmp_path / "photos").iterdir()))
    loaded = load(tmp_path / "photos", size=encoder.config.input, progress=False).images
    np.testing.assert_array_equal(loaded, expected)
    assert (load(tmp_path / "photos", size=(8, 8, 3), progress=False).images != expected).any()
