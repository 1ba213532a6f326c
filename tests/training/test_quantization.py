"""Int8 encoders of every network: as good as float32, and the same on every implementation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from repzoo_training.data import load
from repzoo_training.export.graphs import write_graph
from repzoo_training.export.quantization import quantize
from repzoo_training.loop.trained import EncoderGraph
from repzoo_training.networks import NetworkSpec, build_encoder
from repzoo_training.views.views import ViewSpec

DATA = Path(__file__).parents[1] / "data" / "cifar10"  # 100 photographs
SHAPE = (32, 32, 3)
D = 12

NETWORKS = {
    "mlp": NetworkSpec(kind="mlp", widths=(64, 32)),
    "conv": NetworkSpec(kind="conv", widths=(8, 16, 32)),
    "resnet18": NetworkSpec(kind="resnet18", widths=(8, 16, 32)),
    "resnet50": NetworkSpec(kind="resnet50", widths=(8, 16, 16, 16)),
    "vit": NetworkSpec(kind="vit", widths=(16,), depth=2, heads=2, patch=8),
}


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return load(str(DATA), "train", progress=False).images


# A bottleneck network has no kind of layer that resnet18 does not have, and takes 20 seconds.
SLOW = pytest.param("resnet50", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[*(name for name in NETWORKS if name != "resnet50"), SLOW])
def graphs(
    request: pytest.FixtureRequest,
    images: NDArray[np.uint8],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """Return the graph of an encoder in float32 and in int8."""
    torch.manual_seed(3)
    encoder = build_encoder(NETWORKS[request.param], (3, 32, 32), D)
    pixels = torch.from_numpy(images[:64]).permute(0, 3, 1, 2) / 255
    for _ in range(3):
        encoder(pixels)  # running statistics of real images
    folder = tmp_path_factory.mktemp(request.param)
    whole, small = folder / "whole.onnx", folder / "small.onnx"
    for path in (whole, small):
        write_graph(
            EncoderGraph(encoder, ViewSpec()).eval(),
            path,
            {"images": torch.zeros(2, *SHAPE, dtype=torch.uint8)},
            output_names=["embedding"],
        )
    quantize(small, images[:64], keep_float32=("encoder.head.",))
    return whole, small


def run(path: Path, images: NDArray[np.uint8], *, optimised: bool = True) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimised:  # every node as ONNX defines it, in floats between roundings
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    embeddings: NDArray[np.float32] = session.run(["embedding"], {"images": images})[0]
    return embeddings


def test_embeddings_are_nearly_those_of_floats(
    graphs: tuple[Path, Path], images: NDArray[np.uint8]
) -> None:
    others = images[64:]
    whole, small = (run(path, others) for path in graphs)
    assert 1e-5 < np.sqrt(np.mean((small - whole) ** 2)) < 0.1 * whole.std()
    distances = np.linalg.norm(small[:, None] - whole, axis=2)
    assert (distances.argmin(1) == np.arange(len(others))).all()


def test_products_are_of_integers_but_the_last_is_not(
    graphs: tuple[Path, Path], images: NDArray[np.uint8]
) -> None:
    model = onnx.load(graphs[1])
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["QuantizeLinear"] >= 2
    # With 7 bits, the sum of two products of a signed and an unsigned byte fits into 16 bits.
    weights = [
        onnx.numpy_helper.to_array(each)
        for each in model.graph.initializer
        if each.data_type == onnx.TensorProto.INT8
    ]
    largest = max(int(np.abs(each.astype(int)).max()) for each in weights)
    assert 32 < largest <= 64
    # 8-bit outputs would have 256 values.
    assert len(np.unique(run(graphs[1], images))) > 0.9 * len(images) * D


def test_an_image_is_the_same_alone_and_on_another_implementation(
    graphs: tuple[Path, Path], images: NDArray[np.uint8]
) -> None:
    together = run(graphs[1], images)
    spread = together.std()
    np.testing.assert_allclose(run(graphs[1], images[7:8])[0], together[7], atol=1e-3 * spread)
    other = run(graphs[1], images, optimised=False)
    assert np.abs(other - together).max() < 0.1 * spread
