"""A package with a calibrated uncertainty in the local runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import repzoo
from onnx import TensorProto, helper
from repzoo.packages.package import write_manifest
from repzoo.runtime.golden import check_golden, write_golden

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def package(make_package: Callable[..., Path], tmp_path: Path) -> Path:
    return make_package(tmp_path, uncertainty=True)


def test_the_uncertainty_is_the_output_of_the_graph(package: Path) -> None:
    encoder = repzoo.load(package)
    embedding = encoder.embed(PIXELS).astype(float)
    expected = 1 / (1 + np.exp(-embedding.sum(1)))
    uncertainty = encoder.uncertainty(PIXELS, batch_size=3)
    assert uncertainty.dtype == np.float32
    np.testing.assert_allclose(uncertainty, expected, atol=1e-5)
    posterior = encoder.posterior(PIXELS)
    assert posterior.uncertainty is not None
    np.testing.assert_allclose(posterior.uncertainty, expected, atol=1e-5)


def test_an_encoder_without_a_posterior_can_have_an_uncertainty(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = repzoo.load(make_package(tmp_path, posterior=False, uncertainty=True))
    assert encoder.uncertainty(PIXELS[0]).shape == (1,)


def test_a_model_without_an_uncertainty(tiny_package: Path) -> None:
    encoder = repzoo.load(tiny_package)
    with pytest.raises(repzoo.UnsupportedOperation, match="no calibrated uncertainty"):
        encoder.uncertainty(PIXELS)


def test_golden_vectors_include_the_uncertainty(package: Path) -> None:
    deviations = check_golden(repzoo.load(package))
    assert "uncertainty" in {deviation.output for deviation in deviations}


def test_its_inputs_must_be_outputs_of_the_encoder(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    package = make_package(tmp_path, posterior=False, uncertainty=True)
    config = json.loads((package / "config.json").read_text())
    config["uncertainty"]["inputs"] = ["embedding", "log_variance"]
    (package / "config.json").write_text(json.dumps(config))
    with pytest.raises(repzoo.PackageError, match=r"uncertainty\.inputs are"):
        write_manifest(package)


def test_its_input_may_be_the_images(package: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["grey"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["grey", "axes"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "white"], ["uncertainty"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 8, 8, 1])],
        [helper.make_tensor_value_info("uncertainty", TensorProto.FLOAT, ["N"])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("white", TensorProto.FLOAT, [], [255]),
        ],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, package / "uncertainty.onnx")
    config = json.loads((package / "config.json").read_text())
    config["uncertainty"]["inputs"] = ["images"]
    (package / "config.json").write_text(json.dumps(config))
    (package / "golden.npz").unlink()
    write_golden(package, PIXELS[:3], [], np.zeros((1, 4), np.float32))
    write_manifest(package)

    encoder = repzoo.load(package)
    bright = PIXELS.mean((1, 2, 3)) / 255
    np.testing.assert_allclose(encoder.uncertainty(PIXELS, batch_size=3), bright, atol=1e-5)
    posterior = encoder.posterior(iter(PIXELS), batch_size=3)
    assert posterior.uncertainty is not None
    np.testing.assert_allclose(posterior.uncertainty, bright, atol=1e-5)
    np.testing.assert_array_equal(posterior.mean, encoder.embed(PIXELS))
    assert encoder.uncertainty(PIXELS[:0]).shape == (0,)
