"""The weights of graphs, back in torch: the outputs are those of the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import repzoo
import repzoo_training
import torch
from repzoo.errors import PackageError
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import write_manifest
from repzoo_training.data import load
from repzoo_training.export.graphs import write_graph
from repzoo_training.loop.trained import DecoderGraph, EncoderGraph
from repzoo_training.networks import NetworkSpec, build, build_encoder
from repzoo_training.networks.spec import NETWORKS
from repzoo_training.pretrained.graph_weights import read_weights
from repzoo_training.pretrained.loading import start_from
from repzoo_training.pretrained.normalisation import settle
from repzoo_training.recipes.extensions import installed
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.views.views import ViewSpec
from torch import Tensor, nn

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "zoo" / "bundled"
SPECS = {
    "mlp": NetworkSpec(kind="mlp", widths=(48, 40)),
    "conv": NetworkSpec(kind="conv", widths=(8, 16), patch=2),
    "resnet18": NetworkSpec(kind="resnet18", widths=(8, 16)),
    "resnet50": NetworkSpec(kind="resnet50", widths=(4, 8), stem="imagenet", head="none"),
    "vit": NetworkSpec(kind="vit", widths=(16,), patch=8, depth=2, heads=2),
}
SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def _run_once(shared_admissions: None) -> None:
    """Run each package only once before its first load."""


def networks(kind: str, posterior: bool, seed: int) -> tuple[EncoderGraph, DecoderGraph | None]:
    """Return networks as after training: no weight is 0 or equal to another one."""
    torch.manual_seed(seed)
    spec, decoder = SPECS[kind], None
    if posterior:
        encoder, decoder = build(spec, SHAPE, 6)
    else:
        encoder = build_encoder(spec, SHAPE, 32 if spec.head == "none" else 6)
    made = EncoderGraph(encoder, ViewSpec()), None if decoder is None else DecoderGraph(decoder)
    for module in filter(None, made):
        for name, value in module.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:
                noise = torch.rand_like(value)
                value.copy_(0.5 + noise if "var" in name or "weight" in name else noise - 0.5)
        module.eval().requires_grad_(False)
    return made


def outputs_of(path: Path, inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()
    found: list[np.ndarray] = session.run(None, {node.name: inputs.numpy()})
    return found


@pytest.mark.parametrize(
    ("kind", "posterior"),
    [
        ("mlp", False),
        ("conv", True),
        ("resnet18", True),
        pytest.param("resnet50", False, marks=pytest.mark.slow),
        ("vit", False),
    ],
)
def test_a_graph_gives_its_weights_back(kind: str, posterior: bool, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    latents = torch.randn(4, 6)
    trained = networks(kind, posterior, seed=0)
    fresh = networks(kind, posterior, seed=1)
    names = ["embedding", "log_variance"] if posterior else ["embedding"]
    for module, copy, inputs, outputs in (
        (trained[0], fresh[0], images, names),
        (trained[1], fresh[1], latents, ["images"]),
    ):
        if module is None or copy is None:
            continue
        path = tmp_path / "graph.onnx"
        write_graph(module, path, {"rows": inputs}, output_names=outputs, half=kind == "conv")
        read_weights(path, copy, inputs)
        given = copy(inputs)
        for output, expected in zip(
            given if isinstance(given, tuple) else [given], outputs_of(path, inputs), strict=True
        ):
            np.testing.assert_allclose(output, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["conv", "resnet18"])
def test_normalisations_get_statistics_and_keep_the_outputs(kind: str) -> None:
    encoder, _ = networks(kind, posterior=False, seed=0)
    images = torch.randint(0, 256, (64, 16, 16, 3), dtype=torch.uint8)
    before = encoder(images)
    assert (encoder.train()(images) - before).abs().max() > 0.5 * before.std()
    encoder.load_state_dict(networks(kind, posterior=False, seed=0)[0].state_dict())
    encoder.eval()
    settle(encoder, images.split(16))
    torch.testing.assert_close(encoder(images), before, atol=1e-4, rtol=1e-4)
    norms = [each for each in encoder.modules() if isinstance(each, nn.BatchNorm2d)]
    statistics = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    # In training mode the batch has the same statistics, but for the sample variance's n - 1.
    assert (encoder.train()(images) - before).abs().max() < 0.01 * before.std()
    for norm, mean in zip(norms, statistics, strict=True):
        assert norm.running_mean is not None
        torch.testing.assert_close(norm.running_mean, mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["simclr-cifar10", "vae-mnist"])
def test_a_bundled_package_is_the_same_in_torch(name: str) -> None:
    sample = "cifar10" if "cifar10" in name else "mnist"
    images = load(ROOT / "tests" / "data" / sample, "test", progress=False).images[:50]
    expected = repzoo.load(BUNDLED / name, provider="cpu").outputs(images)
    encoder = repzoo_training.load(BUNDLED / name, images=images)
    assert not encoder.training
    outputs = encoder(torch.from_numpy(images))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for output, (kind, values) in zip(outputs, expected.items(), strict=True):
        scale = values.std()
        assert np.abs(output.detach().numpy() - values).max() < 1e-4 * scale, kind
    outputs[0].sum().backward()  # it can be trained
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_another_network_is_refused(tmp_path: Path) -> None:
    images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    path = tmp_path / "graph.onnx"
    write_graph(networks("mlp", False, 0)[0], path, {"x": images}, output_names=["embedding"])
    with pytest.raises(PackageError, match="there is a Gemm where a Conv2d is expected"):
        read_weights(path, networks("conv", False, 0)[0], images)
    shallow = build_encoder(NetworkSpec(kind="mlp", widths=(48,)), SHAPE, 6)
    with pytest.raises(PackageError, match=r"weights are \[40, 48\], expected \[6, 48\]"):
        read_weights(path, EncoderGraph(shallow, ViewSpec()).eval(), images)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(PackageError, match="a Scaled has parameters of its own"):
        read_weights(path, Scaled(), images)


def test_packages_that_cannot_be_trained_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    shutil.copytree(BUNDLED / "minc-mnist", package)
    config = ModelConfig.read(package / "config.json")

    def changed(**values: object) -> Path:
        ModelConfig.model_validate({**config.model_dump(), **values}).write(package / "config.json")
        write_manifest(package)
        return package

    with pytest.raises(PackageError, match="computes in int8, and cannot be trained"):
        repzoo_training.load(changed(precision="int8"))
    with pytest.raises(PackageError, match="was imported from a paper, and its network is not"):
        repzoo_training.load(changed(training=None, source="a paper"))
    metrics = json.loads((package / "metrics.json").read_text())
    metrics["training"]["recipe"]["network"]["kind"] = "mine"
    (package / "metrics.json").write_text(json.dumps(metrics))
    digits = load(ROOT / "tests" / "data" / "mnist", "test", progress=False)
    with pytest.raises(PackageError, match=r"network 'mine'.*registers it in REPZOO_RECIPES"):
        start_from(str(changed()), digits, find_recipe("minc-mnist"))
    # The file that has the network can be named.
    (tmp_path / "mine.py").write_text(
        "from repzoo_training.networks import Network, register\n"
        "from repzoo_training.networks.mlp import MLPBackbone\n"
        'register("mine", Network(lambda spec, shape: MLPBackbone(shape, spec.widths)))\n'
    )
    monkeypatch.setenv("REPZOO_RECIPES", str(tmp_path / "mine.py"))
    installed.cache_clear()
    try:
        assert repzoo_training.load(package)(torch.from_numpy(digits.images[:2])).shape == (2, 10)
    finally:
        installed.cache_clear()
        NETWORKS.pop("mine", None)
