"""Count the parameters and the arithmetic of ONNX graphs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto

__all__ = ["Costs", "graph_costs"]

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


class Costs(NamedTuple):
    """Costs of a graph.

    Attributes:
        parameters: number of stored weights.
        multiply_adds: multiply-adds of convolutions and matrix products for one row.
    """

    parameters: int
    multiply_adds: int


def graph_costs(path: Path) -> Costs:
    """Count the costs of the graph in a file, with a batch of one row."""
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes |= {each.name: list(each.dims) for each in graph.initializer}
    scales = {name for n in graph.node if n.op_type in _QUANTIZERS for name in n.input[1:]}
    integers = (TensorProto.INT64, TensorProto.BOOL)
    parameters = sum(
        math.prod(each.dims)
        for each in graph.initializer
        if each.dims and each.data_type not in integers and each.name not in scales
    )
    return Costs(parameters, sum(_multiply_adds(node, shapes) for node in graph.node))


def _multiply_adds(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    left, right = (shapes[name] for name in node.input[:2])
    output = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":  # weight [O, C/groups, ...]
        return output * math.prod(right[1:])
    if node.op_type == "ConvTranspose":  # weight [C, O/groups, ...]
        return math.prod(left) * math.prod(right[1:])
    transposed = any(each.name == "transA" and each.i for each in node.attribute)
    return output * left[0 if transposed else -1]
