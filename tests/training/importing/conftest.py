"""Small ONNX encoders, as other people's exporters write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

WriteOnnx = Callable[..., Path]


@pytest.fixture
def write_onnx(tmp_path: Path) -> WriteOnnx:
    """``write_onnx(name, ...) -> Path``: a convolution, whose means over the image are embedded."""

    def write(
        name: str = "net.onnx",
        *,
        shape: Sequence[int | str] = ("batch", 3, 32, 32),
        features: int = 6,
        nodes: Sequence[onnx.NodeProto] | None = None,
        outputs: Sequence[tuple[str, Sequence[int | str]]] | None = None,
        inputs: Sequence[onnx.ValueInfoProto] = (),
        kind: int = TensorProto.FLOAT,
        functions: Sequence[onnx.FunctionProto] = (),
        external: bool = False,
        opset: int = 17,
    ) -> Path:
        random = np.random.default_rng(0)
        channels = shape[1] if shape[1] in (1, 3) else shape[3]
        kernel = random.normal(size=(features, int(channels), 4, 4)).astype(np.float32)
        weights = [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.array([-1, features], np.int64), "rows"),
            numpy_helper.from_array(np.array([1, features], np.int64), "one_row"),
        ]
        graph = helper.make_graph(
            list(nodes or encoder_nodes()),
            "net",
            [helper.make_tensor_value_info("pixels", kind, shape), *inputs],
            [
                helper.make_tensor_value_info(each, TensorProto.FLOAT, size)
                for each, size in outputs or [("features", ("batch", features))]
            ],
            weights,
            doc_string="/home/someone/train.py",
        )
        domains = {"": opset} | {node.domain: 1 for node in graph.node if node.domain}
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*each) for each in domains.items()],
            ir_version=8,
            functions=list(functions),
        )
        path = tmp_path / name
        onnx.save_model(
            model, path, save_as_external_data=external, location=f"{name}.data", size_threshold=100
        )
        return path

    return write


def encoder_nodes() -> list[onnx.NodeProto]:
    """Nodes from ``pixels`` [N, C, H, W] to ``features`` [N, D]."""
    return [
        helper.make_node("Conv", ["pixels", "kernel"], ["maps"], strides=[4, 4]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["averaged"]),
        helper.make_node("Reshape", ["averaged", "rows"], ["features"]),
    ]
