"""Tensors that stay on the device between graphs, compared with ``session.run``.

ONNX Runtime binds CPU memory in the same way as GPU memory, so everything except the device name is
tested without a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import repzoo
from repzoo.runtime import sessions
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.sessions import Provider

BUNDLED = Path(__file__).parents[2] / "zoo" / "bundled"
DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
PACKAGES = ["simvae-mnist", "simvae-celeba", "simclr-celeba", "minc-mnist"]

Pair = tuple[Encoder, Encoder]


def load(name: str, devices: dict[str, str], provider: Provider = "cpu") -> Encoder:
    path = BUNDLED / name
    config = repzoo.ModelConfig.read(path / "config.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "DEVICES", devices)
        return Encoder(path, config, provider=provider, threads=1)


@pytest.fixture(scope="module", params=PACKAGES)
def pair(request: pytest.FixtureRequest) -> Pair:
    """A model with bindings and the same model without."""
    return load(request.param, DEVICES), load(request.param, {})


def pixels(encoder: Encoder, rows: int, seed: int = 0) -> np.ndarray:
    shape = (rows, *encoder.config.input.shape)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def everything(encoder: Encoder, images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """Return the results of every operation of the model."""
    outputs = encoder.outputs(images, uncertainty=True, batch_size=batch_size)
    found = {
        **{f"outputs: {key}": value for key, value in outputs.items()},
        "embed": encoder.embed(images, batch_size=batch_size),
        "uncertainty": encoder.uncertainty(images, batch_size=batch_size),
        "uncertainty_of": encoder.uncertainty_of(outputs, images),
    }
    for probe in encoder.config.probes:
        predictions = encoder.probe(images, probe.task, probe.kind, batch_size=batch_size)
        found[f"probe: {probe.file}"] = predictions.probabilities
    if encoder.config.has_posterior:
        posterior = vars(encoder.posterior(images, batch_size=batch_size))
        found |= {f"posterior: {key}": each for key, each in posterior.items() if each is not None}
    if encoder.config.has_decoder:
        found["reconstruct"], found["error"] = encoder.reconstruct(images, batch_size=batch_size)
        latents = outputs["embedding"]
        found["generate"], _ = encoder.generate(latents=latents, batch_size=batch_size)
    return found


def assert_same(bound: dict[str, np.ndarray], plain: dict[str, np.ndarray]) -> None:
    assert bound.keys() == plain.keys()
    for key, expected in plain.items():
        assert bound[key].dtype == expected.dtype, key
        assert np.array_equal(bound[key], expected), key


@pytest.mark.parametrize(("rows", "batch_size"), [(0, 256), (1, 256), (7, 1), (7, 3), (7, 256)])
def test_results_are_bit_identical_to_session_run(pair: Pair, rows: int, batch_size: int) -> None:
    bound, plain = pair
    images = pixels(plain, rows)
    expected = everything(plain, images, batch_size)
    assert_same(everything(bound, images, batch_size), expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda images: images[::2],
        lambda images: images[:, ::-1],
        lambda images: images.transpose(0, 2, 1, 3),
        np.asfortranarray,
    ],
    ids=["every second", "upside down", "transposed", "columns first"],
)
def test_pixels_may_have_any_memory_layout(
    pair: Pair, view: Callable[[np.ndarray], np.ndarray]
) -> None:
    bound, plain = pair
    images = view(pixels(plain, 6))
    assert not images.flags.c_contiguous
    images.flags.writeable = False
    expected = everything(plain, np.ascontiguousarray(images), 4)
    assert_same(everything(bound, images, 4), expected)


def test_threads_do_not_mix(pair: Pair) -> None:
    bound, plain = pair
    batches = [pixels(plain, rows=1 + seed % 3, seed=seed) for seed in range(12)]
    expected = [everything(plain, batch, 2) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda batch: everything(bound, batch, 2), batches))
    for each, other in zip(found, expected, strict=True):
        assert_same(each, other)


def test_nothing_is_copied_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load("simvae-mnist", DEVICES)
    copies: Counter[str] = Counter()
    upload, download = ort.OrtValue.ortvalue_from_numpy, ort.OrtValue.numpy

    def counted_upload(*args: object) -> object:
        copies["up"] += 1
        return upload(*args)

    def counted_download(value: object) -> object:
        copies["down"] += 1
        return download(value)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", counted_upload)
    monkeypatch.setattr(ort.OrtValue, "numpy", counted_download)
    images = pixels(encoder, 3)
    operations: list[tuple[Callable[[], object], int]] = [
        (lambda: encoder.embed(images), 1),
        (lambda: encoder.uncertainty(images), 1),
        (lambda: encoder.posterior(images), 5),
        (lambda: encoder.outputs(images, uncertainty=True), 3),
        (lambda: encoder.probe(images, "class"), 1),
        (lambda: encoder.reconstruct(images), 1),
        (lambda: encoder.generate(3), 1),
    ]
    for operation, down in operations:
        copies.clear()
        operation()
        assert copies == {"up": 1, "down": down}


def test_a_gpu_gives_the_same() -> None:
    for name in PACKAGES:
        try:
            bound, plain = (load(name, devices, "cuda") for devices in (DEVICES, {}))
        except repzoo.InvalidInput as error:
            pytest.skip(str(error))
        images = pixels(plain, 7)
        found, expected = (everything(encoder, images, 3) for encoder in (bound, plain))
        assert found.keys() == expected.keys()
        for key, value in expected.items():  # its kernels may add in a different order each time
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
