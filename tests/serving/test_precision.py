"""Packages in half precision, like the bundled ones, and in 8-bit integers."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import repzoo
from onnx import numpy_helper
from PIL import Image
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Package, write_manifest
from repzoo.runtime.golden import write_golden
from repzoo_training.data import load
from repzoo_training.export.quantization import quantize

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "zoo" / "bundled" / "simvae-mnist"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    images = load(str(ROOT / "tests" / "data" / "mnist"), "train", progress=False).images[:200]
    return np.asarray(images).reshape(-1, 28, 28, 1)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    """The bundled package with an encoder in 8-bit integers, named "small"."""
    folder = tmp_path_factory.mktemp("quantized")
    package = folder / "small"
    shutil.copytree(BUNDLED, package)
    (package / "manifest.json").unlink()
    path = package / "encoder.onnx"
    onnx.save(in_float32(onnx.load(path)), path)
    quantize(path, pixels[:100], keep_float32=("encoder.head.",))
    config = ModelConfig.model_validate_json((package / "config.json").read_text())
    config.model_copy(update={"name": "small", "precision": "int8"}).write(package / "config.json")
    (package / "golden.npz").unlink()
    latents = np.zeros((1, config.latent_dim), np.float32)
    write_golden(package, pixels[100:104], latents=latents)
    write_manifest(package)
    return package


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with weights stored in the precision of the computation, as quantizers need."""
    graph = model.graph
    stored = {each.name: each for each in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Cast" and node.input[0] in stored:
            half = stored[node.input[0]]
            full = numpy_helper.to_array(half).astype(np.float32)
            graph.initializer.remove(half)
            graph.initializer.append(numpy_helper.from_array(full, node.output[0]))
            graph.node.remove(node)
    del graph.value_info[:]
    return model


def test_it_is_a_package_like_any_other(quantized: Path) -> None:
    kinds = Counter(node.op_type for node in onnx.load(quantized / "encoder.onnx").graph.node)
    assert kinds["QuantizeLinear"] >= 4
    Package.open(quantized).verify()
    assert (quantized / "encoder.onnx").stat().st_size < 0.55 * (
        BUNDLED / "encoder.onnx"
    ).stat().st_size
    words = ["-c", "from repzoo.cli import main; main()", "verify", str(quantized)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "golden outputs verified" in done.stdout


def test_it_is_served_beside_its_original(
    server_process: type, quantized: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    files = [base64.b64encode(png(each)).decode() for each in pixels[104:]]
    words = ("--models", f"{BUNDLED},{quantized}", "--port", "0")
    with server_process(*words, log=tmp_path / "log") as server, httpx.Client(timeout=60) as http:
        url = server.wait_until_ready()
        models = {each["name"]: each for each in http.get(f"{url}/models").json()["models"]}
        answers = {
            name: http.post(f"{url}/embed", json={"model": name, "images": files}).json()
            for name in models
        }
        alone = http.post(f"{url}/embed", json={"model": "small", "images": files[:1]}).json()
    assert models["simvae-mnist"]["config"]["precision"] == "float16"
    assert models["small"]["config"]["precision"] == "int8"
    # The graph that really runs, from the session itself.
    assert {each["provider"] for each in models.values()} == {
        repzoo.load(quantized, provider="cpu").provider
    }
    half, small = (np.array(answers[name]["embeddings"]) for name in ("simvae-mnist", "small"))
    error = np.sqrt(np.mean((half - small) ** 2)) / half.std()
    assert 1e-5 < error < 0.05
    # Nearly the same neighbours, and the same result alone as in a batch.
    distances = np.linalg.norm(small[:, None] - half, axis=2)
    assert np.mean(distances.argmin(1) == np.arange(len(half))) == 1
    np.testing.assert_allclose(alone["embeddings"][0], small[0], atol=1e-5)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()
