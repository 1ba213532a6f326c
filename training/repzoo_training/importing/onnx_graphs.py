"""Read an ONNX file from elsewhere, and make the graph of a package of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, inliner, numpy_helper
from repzoo.errors import InvalidInput, PackageError

from repzoo_training.importing.preprocessing import Preprocessing

__all__ = ["Layout", "Pool", "choose_output", "image_input", "package_graph", "read_graph"]

#: What is taken of an output ``[N, T, D]`` or ``[N, D, H, W]``: the first token, or the mean.
Pool: TypeAlias = Literal["none", "first", "mean"]
Layout: TypeAlias = Literal["NCHW", "NHWC"]

#: Protobuf's own limit on the size of a file.
_MOST_BYTES = 2**31 - 1
_ADVICE = (
    "export it with torch.onnx.export(..., dynamo=True), and import the file before it is "
    "optimised, fused or quantised for one runtime: that is where operators such as "
    "com.microsoft's come from. Custom layers must be written with standard operators"
)
_QUANTISED = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_PREFIX = "imported/"


def read_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, with the weights that it keeps in other files beside it.

    Local functions are inlined, and text that exporters add is removed.

    Raises:
        PackageError: If the file is not a float32 graph of standard operators.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf, the file system and onnx each have their own errors
        raise PackageError(f"{path} cannot be read as ONNX: {error}") from error
    if not model.graph.node or not model.opset_import:
        raise PackageError(f"{path} is not an ONNX model: it has no operators")
    size = model.ByteSize()
    if size > _MOST_BYTES:
        raise PackageError(f"{path} has {size:,} bytes with its weights; the limit is 2 GiB")
    if model.functions:
        model = inliner.inline_local_functions(model)
    foreign = Counter(
        f"{node.domain}.{node.op_type}"
        for node in _nodes(model.graph)
        if node.domain not in ("", "ai.onnx")
    )
    if foreign:
        listed = ", ".join(f"{name} ({count})" for name, count in foreign.most_common(8))
        raise PackageError(
            f"{path} uses operators outside the standard ONNX domain: {listed}. To avoid them, "
            f"{_ADVICE}"
        )
    if any(node.op_type in _QUANTISED for node in _nodes(model.graph)):
        raise PackageError(f"{path} is quantised: import the float32 model that it was made from")
    imports = [each for each in model.opset_import if each.domain in ("", "ai.onnx")]
    del model.opset_import[:], model.metadata_props[:]
    model.opset_import.extend(imports)
    model.doc_string = ""
    _strip(model.graph)
    return model


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes of a graph and of the bodies of its loops and branches."""
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _nodes(body)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        # To touch the field of another kind of attribute would add it.
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _strip(graph: onnx.GraphProto) -> None:
    """Remove stack traces and paths, and shapes that may name a fixed number of rows."""
    del graph.metadata_props[:], graph.value_info[:]
    graph.doc_string = ""
    for each in (*graph.input, *graph.output, *graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for body in _bodies(node):
            _strip(body)


def image_input(model: onnx.ModelProto, path: str) -> tuple[Layout, Preprocessing]:
    """Return the layout of the only input, and what its shape says about the preprocessing.

    Raises:
        PackageError: If the model does not take float32 images alone.
    """
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise PackageError(
            f"{path} has {len(inputs)} inputs ({names}); an image encoder has one. Export the "
            "image tower alone"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind.elem_type)
        raise PackageError(
            f"{path}: the input {inputs[0].name} is {found}; expected FLOAT. Export the model in "
            "float32; --precision float16 then halves its weights"
        )
    # 0 stands for a dimension without a number.
    shape = [dim.dim_value for dim in kind.shape.dim]
    if len(shape) != 4 or not {shape[1], shape[3]} & {0, 1, 3}:
        raise PackageError(
            f"{path}: the input {inputs[0].name} has shape {shape}; expected [N, C, H, W] or "
            "[N, H, W, C] with 1 or 3 channels"
        )
    layout: Layout = "NHWC" if shape[1] not in (1, 3) and shape[3] in (1, 3) else "NCHW"
    channels, height, width = shape[1:] if layout == "NCHW" else (shape[3], shape[1], shape[2])
    return layout, Preprocessing(
        size=(height, width) if height and width else None, channels=1 if channels == 1 else 3
    )


def choose_output(model: onnx.ModelProto, wanted: str | None, path: str) -> str:
    """Return the name of the output to use: the one asked for, or the only one.

    Raises:
        InvalidInput: If there is no such output, or there are several.
    """
    names: list[str] = [each.name for each in model.graph.output]
    if wanted is not None and wanted in names:
        return wanted
    if wanted is None and len(names) == 1:
        return names[0]
    reason = "has several outputs" if wanted is None else f"has no output {wanted}"
    raise InvalidInput(f"{path} {reason}: choose one with --output, of {', '.join(names)}")


def package_graph(
    model: onnx.ModelProto,
    layout: Layout,
    preprocessing: Preprocessing,
    output: str,
    pool: Pool = "none",
) -> onnx.ModelProto:
    """Return the graph uint8 images ``[N, H, W, C]`` -> embedding ``[N, D]`` around a model.

    The normalisation becomes one product and one sum in front of it.
    """
    assert pool in get_args(Pool)
    weights = {each.name for each in model.graph.initializer}
    (name,) = (each.name for each in model.graph.input if each.name not in weights)
    # A prefix, so that no name is used twice.
    inside = compose.add_prefix(model, _PREFIX).graph
    spec = preprocessing.spec
    mean, std = (np.asarray(each, np.float64) for each in (preprocessing.mean, preprocessing.std))
    constants = {"scale": 1 / (255 * std), "offset": -mean / std}
    before = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
    ]
    last = _PREFIX + name
    if layout == "NHWC":
        before.append(helper.make_node("Add", ["scaled", "offset"], [last]))
    else:
        before.append(helper.make_node("Add", ["scaled", "offset"], ["normalised"]))
        before.append(helper.make_node("Transpose", ["normalised"], [last], perm=[0, 3, 1, 2]))
    pooled, integers = _pooling(_PREFIX + output, pool, _rank(model, output))
    graph = helper.make_graph(
        [*before, *inside.node, *pooled],
        "encoder",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *spec.shape])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", "D"])],
        [
            *inside.initializer,
            *(numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()),
            *(numpy_helper.from_array(np.array(v, np.int64), k) for k, v in integers.items()),
        ],
    )
    # Versions of the IR from before initializers could be apart from inputs.
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=max(4, model.ir_version)
    )


def _rank(model: onnx.ModelProto, output: str) -> int:
    shape = next(e for e in model.graph.output if e.name == output).type.tensor_type.shape
    return len(shape.dim)


def _pooling(
    name: str, pool: Pool, rank: int
) -> tuple[list[onnx.NodeProto], dict[str, list[int] | int]]:
    """Return nodes from an output to the embedding, and their constants."""
    make = helper.make_node
    if pool == "first":
        return [make("Gather", [name, "first"], ["embedding"], axis=1)], {"first": 0}
    if pool == "none":
        return [make("Identity", [name], ["embedding"])], {}
    # A mean over the last axes. GlobalAveragePool is the same in all versions of the standard.
    nodes = [make("Transpose", [name], ["channels"], perm=[0, 2, 1])] if rank == 3 else []
    last = "channels" if rank == 3 else name
    nodes.append(make("GlobalAveragePool", [last], ["averaged"]))
    nodes.append(make("Flatten", ["averaged"], ["embedding"], axis=1))
    return nodes, {}


def set_dimension(model: onnx.ModelProto, dim: int) -> None:
    """State the number of values of the embedding."""
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = dim
