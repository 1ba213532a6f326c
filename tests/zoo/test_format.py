"""Version 2 of the package format, and how version 0.1 of repzoo handles it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import repzoo
from PIL import Image
from repzoo.errors import PackageError, UnsupportedOperation
from repzoo.packages.config import InputSpec, ModelConfig, ProbeSpec, ResizePolicy
from repzoo.packages.package import Package, write_manifest
from repzoo.runtime.golden import check_golden
from repzoo.runtime.images import decode

ROOT = Path(__file__).parents[2]
#: The last commit of version 0.1.
RELEASED = "3769545986dc50475e699bfbe9527d47e07cfbb8"

MakePackage = Callable[..., Path]
IMAGES = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1)


def versions(path: Path) -> tuple[int, int]:
    manifest, config = (
        json.loads((path / name).read_bytes()) for name in ("manifest.json", "config.json")
    )
    return manifest["format_version"], config["schema_version"]


def test_a_package_is_written_in_the_oldest_version_that_can_hold_it(
    make_package: MakePackage, tmp_path: Path
) -> None:
    old = make_package(tmp_path / "old", uncertainty=True)
    assert versions(old) == (1, 1)
    config = json.loads((old / "config.json").read_bytes())
    assert not {"content", "source"} & config.keys()
    assert "jpeg" not in config["input"]["resize"]
    assert versions(make_package(tmp_path / "new", content=True)) == (2, 2)
    scaled = InputSpec(height=8, width=8, channels=1, resize=ResizePolicy(jpeg="scaled"))
    assert versions(make_package(tmp_path / "scaled", input_spec=scaled)) == (2, 2)
    cropped = InputSpec(height=8, width=8, channels=1, resize=ResizePolicy(size=(9, 9)))
    assert versions(make_package(tmp_path / "cropped", input_spec=cropped)) == (2, 2)


def test_a_version_1_package_is_written_again_byte_for_byte(
    make_package: MakePackage, tmp_path: Path
) -> None:
    path = make_package(tmp_path)
    before = (path / "config.json").read_bytes()
    ModelConfig.read(path / "config.json").write(path / "config.json")
    assert (path / "config.json").read_bytes() == before


def test_the_content_posterior(make_package: MakePackage, tmp_path: Path) -> None:
    encoder = repzoo.load(make_package(tmp_path, content=True, uncertainty=True))
    embedding = encoder.embed(IMAGES)
    posterior = encoder.posterior(IMAGES)
    mean, variance, uncertainty = posterior
    assert mean is posterior.mean
    assert variance is posterior.variance
    np.testing.assert_allclose(posterior.content_mean, embedding + 1, rtol=1e-6)
    np.testing.assert_allclose(posterior.content_variance, embedding**2 + 1, rtol=1e-6)
    np.testing.assert_array_equal(encoder.embed(IMAGES, robust=True), posterior.content_mean)
    # The uncertainty takes the content variance, whichever way it is asked for.
    expected = 1 / (1 + np.exp(-(embedding**2 + 1).sum(1)))
    np.testing.assert_allclose(uncertainty, expected, rtol=1e-5)
    np.testing.assert_allclose(encoder.uncertainty(IMAGES), expected, rtol=1e-5)
    outputs = encoder.outputs(IMAGES)
    assert [*outputs] == ["embedding", "log_variance"]
    np.testing.assert_allclose(encoder.uncertainty_of(outputs, IMAGES), expected, rtol=1e-5)
    assert {each.output for each in check_golden(encoder)} >= {"content_mean", "content_variance"}


def test_a_model_without_a_posterior_of_its_own_may_have_a_content_posterior(
    make_package: MakePackage, tmp_path: Path
) -> None:
    encoder = repzoo.load(make_package(tmp_path, content=True, posterior=False))
    posterior = encoder.posterior(IMAGES)
    assert posterior.variance is None
    assert posterior.content_mean is not None


def test_without_a_content_posterior_robust_is_refused(
    make_package: MakePackage, tmp_path: Path
) -> None:
    encoder = repzoo.load(make_package(tmp_path))
    assert encoder.posterior(IMAGES).content_mean is None
    with pytest.raises(UnsupportedOperation, match="tiny has no content posterior"):
        encoder.embed(IMAGES, robust=True)


def test_an_alias_names_the_same_probe(make_package: MakePackage, tmp_path: Path) -> None:
    probe = ProbeSpec(task="digit", aliases=("class",), classes=tuple("0123456789"))
    path = make_package(tmp_path, probes=(probe,))
    assert versions(path) == (2, 2)
    encoder = repzoo.load(path)
    assert encoder.probe(IMAGES, "class").labels == encoder.probe(IMAGES, "digit").labels


def test_scaled_jpeg_decoding(make_package: MakePackage, tmp_path: Path) -> None:
    photo = Image.effect_noise((512, 384), 64).convert("RGB")
    file = io.BytesIO()
    photo.save(file, "JPEG")
    full = InputSpec(height=8, width=8, channels=1)
    scaled = InputSpec(height=8, width=8, channels=1, resize=ResizePolicy(jpeg="scaled"))
    assert decode(file.getvalue(), full).size == (512, 384)
    assert decode(file.getvalue(), scaled).size == (64, 48)
    encoder = repzoo.load(make_package(tmp_path, input_spec=scaled))
    pixels = encoder.preprocess(file.getvalue())[0]
    assert np.abs(pixels.astype(int) - 128).mean() < 20


def test_an_imported_model_has_a_source_instead_of_training_facts(
    make_package: MakePackage, tmp_path: Path
) -> None:
    path = make_package(tmp_path)
    config = json.loads((path / "config.json").read_bytes())
    del config["training"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(PackageError, match="either 'training' or 'source'"):
        write_manifest(path)
    (path / "config.json").write_text(json.dumps(config | {"source": "timm/vit_small"}))
    package = write_manifest(path)
    assert package.manifest.format_version == 2
    assert package.config.dataset == "timm/vit_small"
    with pytest.raises(PackageError, match="its training is not known"):
        _ = package.config.facts


def test_version_0_1_refuses_version_2_by_name(make_package: MakePackage, tmp_path: Path) -> None:
    released = tmp_path / "released"
    released.mkdir()
    archive = subprocess.run(
        ["git", "archive", RELEASED, "zoo/repzoo"], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip("the commit of version 0.1 is not in this checkout")
    subprocess.run(["tar", "-x", "-C", released], input=archive.stdout, check=True)

    def verify(path: Path) -> subprocess.CompletedProcess[str]:
        code = "import sys, repzoo.package as p; p.Package.open(sys.argv[1]).verify()"
        return subprocess.run(
            [sys.executable, "-c", code, path],
            env=os.environ | {"PYTHONPATH": str(released / "zoo")},
            capture_output=True,
            text=True,
            check=False,
        )

    assert verify(make_package(tmp_path / "old")).returncode == 0
    refused = verify(make_package(tmp_path / "new", content=True))
    assert refused.returncode == 1
    assert "this repzoo reads version 1, not 2" in refused.stderr


def test_bundled_packages_of_version_1_stay_readable() -> None:
    assert Package.open(ROOT / "zoo" / "bundled" / "simvae-mnist").config.latent_dim == 10
