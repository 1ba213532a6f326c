"""The local runtime, against the same mathematics in numpy."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import repzoo
from onnx import numpy_helper
from PIL import Image
from repzoo.packages.arrays import write_arrays
from repzoo.packages.config import InputSpec
from repzoo.runtime.encoder import Encoder

MakePackage = Callable[..., Path]
rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def encoder(tiny_package: Path) -> Encoder:
    return repzoo.load(tiny_package, provider="cpu")


@pytest.fixture(scope="module")
def plain(plain_package: Path) -> Encoder:
    return repzoo.load(plain_package, provider="cpu")


def constants(package: Path, graph: str) -> dict[str, np.ndarray]:
    model = onnx.load(package / graph)
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(float))
    return powers / powers.sum(axis=1, keepdims=True)


def test_large_images_run_in_smaller_batches(make_package: MakePackage, tmp_path: Path) -> None:
    large = InputSpec(height=1500, width=1000, channels=1)
    encoder = repzoo.load(make_package(tmp_path, input_spec=large, decoder=False))
    assert encoder.most_rows == 2
    images = np.random.default_rng(3).integers(0, 256, (5, 1500, 1000, 1), dtype=np.uint8)
    one_by_one = np.concatenate([encoder.embed(image) for image in images])
    np.testing.assert_allclose(encoder.embed(images), one_by_one, atol=1e-5)


def test_attributes_describe_the_package(encoder: Encoder, tiny_package: Path) -> None:
    package = repzoo.Package.open(tiny_package)
    assert encoder.path == tiny_package
    assert encoder.revision == package.revision
    assert encoder.config == package.config
    assert encoder.provider == "CPUExecutionProvider"
    assert "tiny" in repr(encoder)


def test_embed(encoder: Encoder, tiny_package: Path) -> None:
    weights = constants(tiny_package, "encoder.onnx")["A"]
    expected = PIXELS.reshape(7, -1) / 255 @ weights
    embedding = encoder.embed(PIXELS)
    assert embedding.dtype == np.float32
    assert np.abs(embedding - expected).max() < 1e-5


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_the_batch_size_changes_nothing(encoder: Encoder, batch_size: int) -> None:
    whole = encoder.embed(PIXELS)
    assert np.abs(encoder.embed(PIXELS, batch_size=batch_size) - whole).max() < 1e-6
    files = [png(pixels) for pixels in PIXELS]
    assert np.abs(encoder.embed(files, batch_size=batch_size) - whole).max() < 1e-6


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def test_normalize(encoder: Encoder) -> None:
    black = np.zeros((1, 8, 8, 1), np.uint8)
    images = np.concatenate([PIXELS, black])
    normalized = encoder.embed(images, normalize=True)
    assert normalized.dtype == np.float32
    assert np.allclose(np.linalg.norm(normalized[:-1], axis=1), 1, atol=1e-6)
    assert (normalized[-1] == 0).all()  # its embedding is zero and stays zero


def test_posterior(encoder: Encoder, tiny_package: Path) -> None:
    spread = constants(tiny_package, "encoder.onnx")["B"]
    posterior = encoder.posterior(PIXELS)
    expected = np.exp(-np.abs(encoder.embed(PIXELS) @ spread) - 1)
    assert np.array_equal(posterior.mean, encoder.embed(PIXELS))
    assert posterior.variance.dtype == np.float32
    assert np.allclose(posterior.variance, expected, rtol=1e-5)
    assert posterior.uncertainty is None
    outputs = encoder.outputs(PIXELS)
    assert list(outputs) == ["embedding", "log_variance"]
    assert np.allclose(np.exp(outputs["log_variance"]), posterior.variance)


def test_reconstruct(encoder: Encoder, tiny_package: Path) -> None:
    weights = constants(tiny_package, "decoder.onnx")["At"]
    expected = 1 / (1 + np.exp(-(encoder.embed(PIXELS) @ weights).astype(float)))
    images, error = encoder.reconstruct(PIXELS, batch_size=3)
    assert images.dtype == error.dtype == np.float32
    assert np.abs(images.reshape(7, -1) - expected).max() < 1e-5
    assert np.allclose(error, np.mean((expected - PIXELS.reshape(7, -1) / 255) ** 2, axis=1))


def test_generate_draws_from_the_prior(encoder: Encoder) -> None:
    one, again, other = (encoder.generate(3, seed=seed) for seed in (1, 1, 2))
    assert one.images.shape == (3, 8, 8, 1)
    assert one.images.dtype == one.latents.dtype == np.float32
    assert np.array_equal(one.images, again.images)
    assert not np.array_equal(one.images, other.images)
    assert not np.array_equal(encoder.generate().latents, encoder.generate().latents)
    more = encoder.generate(300, seed=1, batch_size=50)
    assert np.array_equal(more.latents[:3], one.latents)
    assert np.abs(more.images[:3] - one.images).max() < 1e-6
    many = encoder.generate(20000, seed=0).latents
    assert np.abs(many.mean(axis=0)).max() < 0.03
    assert np.abs(many.std(axis=0) - 1).max() < 0.03


def test_generate_from_a_mixture(tiny_package: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_package, tmp_path / "mixture")
    means = np.array([[-5, 0, 0, 0], [0, 0, 0, 0], [5, 0, 0, 0]], np.float32)
    write_arrays(
        path / "prior.npz",
        {
            "weights": np.array([1, 0, 3], np.float32),
            "means": means,
            "scales": np.full((3, 4), 0.1, np.float32),
        },
    )
    encoder = Encoder(path, repzoo.ModelConfig.read(path / "config.json"), provider="cpu")
    first = encoder.generate(8000, seed=0).latents[:, 0]
    assert abs((first > 0).mean() - 0.75) < 0.02
    assert np.abs(np.abs(first) - 5).max() < 1


def test_generate_decodes_latents(encoder: Encoder) -> None:
    latents = encoder.embed(PIXELS)
    images, used = encoder.generate(latents=latents)
    assert np.array_equal(images, encoder.reconstruct(PIXELS).images)
    assert np.array_equal(used, latents)
    assert encoder.generate(latents=latents[0].tolist()).images.shape == (1, 8, 8, 1)


def test_probe_of_one_label(encoder: Encoder, tiny_package: Path) -> None:
    head = constants(tiny_package, "probes/digit.linear.onnx")["P"]
    classes, probabilities, labels = encoder.probe(PIXELS, "digit")
    assert classes == tuple("0123456789")
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities, softmax(encoder.embed(PIXELS) @ head), atol=1e-5)
    assert labels == [classes[k] for k in probabilities.argmax(axis=1)]


def test_probe_of_several_labels(encoder: Encoder, tiny_package: Path) -> None:
    head = constants(tiny_package, "probes/attributes.linear.onnx")["P"]
    classes, probabilities, labels = encoder.probe(PIXELS, "attributes", "linear")
    expected = 1 / (1 + np.exp(-(encoder.embed(PIXELS) @ head).astype(float)))
    assert np.allclose(probabilities, expected, atol=1e-5)
    assert labels == [
        [name for name, p in zip(classes, row, strict=True) if p >= 0.5] for row in expected
    ]


def test_no_images_give_no_rows(encoder: Encoder) -> None:
    assert encoder.embed([]).shape == (0, 4)
    assert encoder.embed([], normalize=True).shape == (0, 4)
    assert encoder.posterior([]).variance.shape == (0, 4)
    assert encoder.reconstruct([]).images.shape == (0, 8, 8, 1)
    assert encoder.reconstruct([]).error.shape == (0,)
    assert encoder.generate(latents=np.empty((0, 4))).images.shape == (0, 8, 8, 1)
    assert encoder.probe([], "digit").probabilities.shape == (0, 10)
    assert encoder.probe([], "digit").labels == []


def test_missing_parts_are_unsupported_operations(plain: Encoder) -> None:
    assert plain.embed(PIXELS).shape == (7, 4)
    for operation in (plain.posterior, plain.reconstruct, lambda _: plain.generate()):
        with pytest.raises(repzoo.UnsupportedOperation, match="plain has no"):
            operation(PIXELS)
    with pytest.raises(repzoo.UnknownTask, match="it has no probes"):
        plain.probe(PIXELS, "digit")


def test_an_unknown_task_lists_the_probes(encoder: Encoder) -> None:
    for task, kind in [("weather", "linear"), ("digit", "mlp")]:
        with pytest.raises(repzoo.UnknownTask, match=r"digit \(linear\), attributes \(linear\)"):
            encoder.probe(PIXELS, task, kind)


def test_arguments_out_of_range(encoder: Encoder, tiny_package: Path) -> None:
    wrong: list[Callable[[], object]] = [
        lambda: encoder.generate(0),
        lambda: encoder.generate(-1),
        lambda: encoder.generate(True),
        lambda: encoder.generate(1.5),
        lambda: encoder.generate(seed=-1),
        lambda: encoder.generate(latents=np.zeros((2, 5))),
        lambda: encoder.generate(latents=np.zeros((1, 2, 4))),
        lambda: encoder.generate(latents=[[1, 2, 3, np.nan]]),
        lambda: encoder.generate(latents="abcd"),
        lambda: encoder.generate(latents=[[1], [1, 2]]),
        lambda: encoder.embed(PIXELS, batch_size=0),
        lambda: encoder.embed(7),
        lambda: repzoo.load(tiny_package, provider="tpu"),
        lambda: repzoo.load(tiny_package, threads=0),
    ]
    for call in wrong:
        with pytest.raises(repzoo.InvalidInput):
            call()


def test_the_bad_image_is_identified_for_any_batch_size(encoder: Encoder) -> None:
    images = [*PIXELS, b"not an image", PIXELS[0]]
    with pytest.raises(repzoo.InvalidImage) as caught:
        encoder.embed(images, batch_size=2)
    assert caught.value.index == 7


def test_threads_share_an_encoder(encoder: Encoder) -> None:
    batches = [np.random.default_rng(i).integers(0, 256, (5, 8, 8, 1), np.uint8) for i in range(40)]
    alone = [encoder.posterior(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(encoder.posterior, batches))
    for one, other in zip(alone, together, strict=True):
        assert np.allclose(one.mean, other.mean, atol=1e-6)
        assert np.allclose(one.variance, other.variance, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 5}, "'embedding' is tensor"),
        ({"input": {"height": 8, "width": 9, "channels": 1}}, "'images' is tensor"),
        ({"outputs": ["embedding"], "has_posterior": False}, None),
    ],
)
def test_graphs_must_match_the_config(
    tiny_package: Path, changes: dict[str, object], message: str | None
) -> None:
    record = repzoo.Package.open(tiny_package).config.model_dump() | changes
    config = repzoo.ModelConfig.model_validate(record)
    if message is None:
        Encoder(tiny_package, config, provider="cpu")  # an extra output does no harm
        return
    with pytest.raises(repzoo.PackageError, match=message):
        Encoder(tiny_package, config, provider="cpu")


def test_a_graph_without_an_output_or_that_cannot_be_read(
    tiny_package: Path, plain_package: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_package, tmp_path / "broken")
    config = repzoo.ModelConfig.read(path / "config.json")
    shutil.copy(plain_package / "encoder.onnx", path)
    with pytest.raises(repzoo.PackageError, match="no output 'log_variance'"):
        Encoder(path, config, provider="cpu")
    (path / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(repzoo.PackageError, match=r"encoder\.onnx"):
        Encoder(path, config, provider="cpu")
    (path / "encoder.onnx").unlink()
    with pytest.raises(repzoo.PackageError, match=r"encoder\.onnx"):
        Encoder(path, config, provider="cpu")


def test_a_graph_cannot_read_files_outside_its_package(
    tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(tiny_package, tmp_path / "nosy")
    (tmp_path / "secret").write_bytes(bytes(4 * 64 * 4))
    monkeypatch.chdir(tmp_path)
    config = repzoo.ModelConfig.read(path / "config.json")
    for location in ("secret", "../secret", str(tmp_path / "secret")):
        model = onnx.load(tiny_package / "encoder.onnx")
        (tensor,) = [each for each in model.graph.initializer if each.name == "A"]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
        (path / "encoder.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(repzoo.PackageError, match="cannot be loaded"):
            Encoder(path, config, provider="cpu")


@pytest.mark.parametrize(
    "prior",
    [
        {},
        {"weights": np.ones(1, np.float32)},
        {
            "weights": np.ones(1),
            "means": np.zeros((1, 4), np.float32),
            "scales": np.ones((1, 4), np.float32),
        },
        {
            "weights": np.zeros(1, np.float32),
            "means": np.zeros((1, 4), np.float32),
            "scales": np.ones((1, 4), np.float32),
        },
        {
            "weights": np.ones(2, np.float32),
            "means": np.zeros((1, 4), np.float32),
            "scales": np.ones((1, 4), np.float32),
        },
        {
            "weights": np.ones(1, np.float32),
            "means": np.full((1, 4), np.nan, np.float32),
            "scales": np.ones((1, 4), np.float32),
        },
    ],
)
def test_a_prior_must_be_a_mixture(
    tiny_package: Path, tmp_path: Path, prior: dict[str, np.ndarray]
) -> None:
    path = shutil.copytree(tiny_package, tmp_path / "broken")
    write_arrays(path / "prior.npz", prior)
    with pytest.raises(repzoo.PackageError, match=r"prior\.npz"):
        Encoder(path, repzoo.ModelConfig.read(path / "config.json"), provider="cpu")


def test_pickles_are_not_read(tiny_package: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_package, tmp_path / "broken")
    np.savez(path / "prior.npz", weights=np.array([{"a": 1}], dtype=object))
    with pytest.raises(repzoo.PackageError, match="Object arrays"):
        Encoder(path, repzoo.ModelConfig.read(path / "config.json"), provider="cpu")


def test_cuda_is_used_if_there_is_a_gpu_and_refused_otherwise(tiny_package: Path) -> None:
    automatic = repzoo.load(tiny_package)
    if automatic.provider == "CUDAExecutionProvider":
        assert repzoo.load(tiny_package, provider="cuda").provider == automatic.provider
    else:
        assert automatic.provider == "CPUExecutionProvider"
        with pytest.raises(repzoo.InvalidInput, match="cuda"):
            repzoo.load(tiny_package, provider="cuda")
    assert repzoo.load(tiny_package, provider="cpu").provider == "CPUExecutionProvider"


def test_choosing_a_provider_is_silent(tiny_package: Path) -> None:
    code = f"import repzoo; print(repzoo.load({str(tiny_package)!r}).provider)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip().endswith("ExecutionProvider")
    assert result.stderr == ""
