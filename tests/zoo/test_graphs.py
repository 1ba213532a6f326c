"""Which ONNX graphs a package may contain: those of exporters, but no malicious ones."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import repzoo
from onnx import TensorProto, helper, numpy_helper
from repzoo.checks.content import check_content
from repzoo.checks.graphs import IR_VERSIONS, MAX_NODES, OPSETS, check_graph
from repzoo.packages.package import Package, write_manifest

ROOT = Path(__file__).parents[2]
BUNDLED = sorted((ROOT / "zoo" / "bundled").glob("*/**/*.onnx"))


def a_model(*nodes: onnx.NodeProto, **fields: Any) -> onnx.ModelProto:
    """The model ``y = x + 1``, with optional changes."""
    nodes = nodes or (helper.make_node("Add", ["x", "one"], ["y"]),)
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.ones(4, np.float32), "one")],
    )
    opsets = fields.pop("opset_imports", [helper.make_opsetid("", 18)])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **fields)


@pytest.fixture
def check(tmp_path: Path) -> Callable[[onnx.ModelProto | bytes], None]:
    """Check a graph, given as a model or its bytes."""

    def check(model: onnx.ModelProto | bytes) -> None:
        path = tmp_path / "graph.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        check_graph(path)

    return check


def branches(body: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)


def a_graph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), "body", [], [output])


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: f"{path.parts[-2]}/{path.name}")
def test_bundled_graphs_pass(path: Path) -> None:
    check_graph(path)


def test_every_type_of_tensor_and_attribute_passes(check: Callable[..., None]) -> None:
    check(a_model())
    attributes: dict[str, Any] = {
        "f": 1.5,
        "i": -3,
        "s": "text",
        "fs": [1.5, 2.5],
        "is": [-1, 2**40],
        "ss": ["a", "b"],
        "t": numpy_helper.from_array(np.zeros((0, 3), np.int64)),
        "ts": [numpy_helper.from_array(np.float32(1))],
        "g": a_graph(helper.make_node("Identity", ["x"], ["y"])),
        "type": helper.make_optional_type_proto(
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, ["N"]))
        ),
    }
    check(a_model(helper.make_node("Add", ["x", "one"], ["y"], domain="ai.onnx", **attributes)))
    model = a_model()
    for kind in helper.get_all_tensor_dtypes() - {TensorProto.UNDEFINED}:
        values = ["a", "b"] if kind == TensorProto.STRING else [1, 0]
        model.graph.initializer.append(helper.make_tensor(f"t{kind}", kind, [2], values))
    model.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, "N"]))
    model.metadata_props.add(key="a", value="b")
    model.opset_import.append(helper.make_opsetid("pkg.of.an.exporter", 1))  # not used by a node
    check(model)
    check(a_model(branches(a_graph(branches(a_graph(helper.make_node("Identity", ["x"], ["y"])))))))


def an_external_tensor() -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "outside")
    onnx.external_data_helper.set_external_data(tensor, "../../secret")
    tensor.ClearField("raw_data")
    return tensor


def a_sparse_tensor() -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "s"),
        numpy_helper.from_array(np.zeros(1, np.int64), "i"),
        [2**40],
    )


def a_function(domain: str) -> onnx.FunctionProto:
    node = helper.make_node("Add", ["a", "a"], ["b"])
    return helper.make_function(
        domain, "Twice", ["a"], ["b"], [node], [helper.make_opsetid("", 18)]
    )


def nested(depth: int) -> onnx.NodeProto:
    node = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["y"], then_branch=a_graph(node))
    return node


def with_tensor(tensor: TensorProto) -> onnx.ModelProto:
    model = a_model()
    model.graph.initializer.append(tensor)
    return model


def with_dims(*dims: int) -> onnx.ModelProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "claims")
    tensor.dims[:] = dims
    return with_tensor(tensor)


def set_ir(version: int) -> onnx.ModelProto:
    model = a_model()
    model.ir_version = version
    return model


def with_sparse_initializer() -> onnx.ModelProto:
    model = a_model()
    model.graph.sparse_initializer.append(a_sparse_tensor())
    return model


def with_training() -> onnx.ModelProto:
    model = a_model()
    model.training_info.add()
    return model


EVIL = helper.make_node("Run", ["x"], ["y"], domain="com.evil")

HOSTILE = {
    "custom operator": (lambda: a_model(EVIL), r"operator com\.evil\.Run"),
    "microsoft's": (
        lambda: a_model(helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")),
        r"operator com\.microsoft\.EPContext",
    ),
    "in a branch": (lambda: a_model(branches(a_graph(EVIL))), r"operator com\.evil\.Run"),
    "in many graphs": (
        lambda: a_model(helper.make_node("If", ["c"], ["y"], graphs=[a_graph(), a_graph(EVIL)])),
        r"operator com\.evil\.Run",
    ),
    "a domain that ends early": (
        lambda: a_model(helper.make_node("Run", ["x"], ["y"], domain="ai.onnx\0.evil")),
        "only standard operators",
    ),
    "functions": (lambda: a_model(functions=[a_function("mine")]), "local functions"),
    "functions of the standard domain": (
        lambda: a_model(functions=[a_function("")]),
        "local functions",
    ),
    "training": (with_training, "training graph"),
    "external data": (lambda: with_tensor(an_external_tensor()), "external data"),
    "external data of a constant": (
        lambda: a_model(helper.make_node("Constant", [], ["y"], value=an_external_tensor())),
        "external data",
    ),
    "external data deep down": (
        lambda: a_model(
            branches(a_graph(helper.make_node("X", [], ["y"], ts=[an_external_tensor()])))
        ),
        "external data",
    ),
    "sparse initializer": (with_sparse_initializer, "sparse tensor"),
    "sparse constant": (
        lambda: a_model(helper.make_node("Constant", [], ["y"], sparse_value=a_sparse_tensor())),
        "sparse tensor",
    ),
    "a shape without bytes": (lambda: with_dims(2**40), "more elements than it has bytes"),
    "shapes that multiply": (lambda: with_dims(2**11, 2**11), "more elements than it has bytes"),
    "a negative shape": (lambda: with_dims(-1), "negative dimension"),
    "a hundred dimensions": (lambda: with_dims(*[1] * 100), "more elements"),
    "levels": (lambda: a_model(nested(30)), "more than 50 nesting levels"),
    "nodes": (
        lambda: a_model(*[helper.make_node("Abs", ["x"], ["y"])] * (MAX_NODES + 1)),
        "more than 20000 nodes",
    ),
    "an old IR": (lambda: set_ir(IR_VERSIONS[0] - 1), "IR version is 2; expected 3 to 14"),
    "a future IR": (lambda: set_ir(IR_VERSIONS[-1] + 1), "IR version is 15"),
    "a negative IR": (lambda: set_ir(-1), "IR version is 18446744073709551615"),
    "an old opset": (
        lambda: a_model(opset_imports=[helper.make_opsetid("", OPSETS[0] - 1)]),
        "operator set version is 6; expected 7 to 28",
    ),
    "a future opset": (
        lambda: a_model(opset_imports=[helper.make_opsetid("", OPSETS[-1] + 1)]),
        "operator set version is 29",
    ),
    "no opset": (lambda: a_model(opset_imports=[]), "imports 0 standard operator sets"),
    "two opsets": (
        lambda: a_model(
            opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx", 19)]
        ),
        "imports 2 standard operator sets",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_graphs_are_refused(case: str, check: Callable[..., None]) -> None:
    make, reason = HOSTILE[case]
    with pytest.raises(repzoo.PackageError, match=rf"not an allowed ONNX graph: .*{reason}"):
        check(make())


def field(number: int, wire_type: int, *data: int) -> bytes:
    tag = number << 3 | wire_type
    return bytes([tag & 0x7F | 0x80, tag >> 7, *data]) if tag > 0x7F else bytes([tag, *data])


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (b"\xff", "is truncated"),
        (field(2, 2, 5), "is truncated"),
        (field(2, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1), "is truncated"),
        (b"\x80" * 11, "more than 64 bits"),
        (b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (field(99, 0, 1), "ModelProto has the unknown field 99"),
        (b"\x00\x00", "ModelProto has the unknown field 0"),
        (field(2, 3) + field(2, 4), "wire type 3"),
        (field(1, 2, 1, 10), "wire type 2"),
        (field(5, 5, 1, 2, 3, 4), "wire type 5"),
        (field(1, 0, 10), "field 1 of ModelProto occurs twice"),
        (field(7, 2, 0), "field 7 of ModelProto occurs twice"),
        (field(2, 7), "wire type 7"),
    ],
)
def test_malformed_messages_are_refused(
    extra: bytes, reason: str, check: Callable[..., None]
) -> None:
    data = a_model().SerializeToString()
    check(data)
    with pytest.raises(repzoo.PackageError, match=reason):
        check(data + extra)


def test_fields_that_parsers_would_merge_are_refused(check: Callable[..., None]) -> None:
    # Protobuf would append the dimensions of the second tensor to those of the first.
    one = TensorProto(dims=[2**12], data_type=1, raw_data=bytes(2**9)).SerializeToString()
    node = helper.make_node("Constant", [], ["y"])
    attribute = field(5, 2, len(one) & 0x7F | 0x80, len(one) >> 7) + one
    node.attribute.add(name="value").ParseFromString(attribute * 2)
    assert list(node.attribute[0].t.dims) == [2**12, 2**12]
    data = a_model().graph.SerializeToString()
    raw = field(5, 2) + _length(len(attribute) * 2) + attribute * 2
    raw = field(1, 2) + _length(len(raw)) + raw
    with pytest.raises(repzoo.PackageError, match="field 5 of AttributeProto occurs twice"):
        check(field(1, 0, 10) + field(7, 2) + _length(len(data) + len(raw)) + data + raw)


def _length(size: int) -> bytes:
    return bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])


@pytest.mark.parametrize("data", [b"", b"\0", b"not a graph", b"\x7fELF" + bytes(100), b"PK\3\4"])
def test_other_files_are_not_graphs(data: bytes, check: Callable[..., None]) -> None:
    with pytest.raises(repzoo.PackageError):
        check(data)


def test_mutated_graphs_pass_or_are_refused(tiny_package: Path, tmp_path: Path) -> None:
    """Any bytes either pass or are refused, and the parser agrees about those that pass."""
    rng = random.Random(0)
    path = tmp_path / "graph.onnx"
    originals = [
        (tiny_package / "encoder.onnx").read_bytes(),
        a_model(branches(a_graph(helper.make_node("Neg", ["x"], ["y"])))).SerializeToString(),
        (ROOT / "zoo/bundled/simvae-mnist/probes/class.mlp.onnx").read_bytes(),
    ]
    passed = 0
    for _ in range(1500):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(5):
                case 0:
                    data[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del data[at : at + rng.randrange(1, 20)]
                case 2:
                    data[at:at] = rng.randbytes(rng.randrange(1, 12))
                case 3:
                    data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 60)]
                case _:
                    del data[at:]
        path.write_bytes(data)
        try:
            check_graph(path)
        except repzoo.PackageError:
            continue
        passed += 1
        try:
            model = onnx.load_model_from_string(bytes(data))
        except Exception:  # text that is not UTF-8, which does no harm
            continue
        assert _tensors_with_external_data(model) == []
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        assert not model.functions
    assert 50 < passed < 1450


def _tensors_with_external_data(model: onnx.ModelProto) -> list[str]:
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        tensors += [attribute.t for attribute in node.attribute]
    return [each.name for each in tensors if onnx.external_data_helper.uses_external_data(each)]


def test_figures_must_be_images(tiny_package: Path, tmp_path: Path) -> None:
    from PIL import Image

    package = shutil.copytree(tiny_package, tmp_path / "tiny")
    figures = package / "figures"
    figures.mkdir()
    Image.new("RGB", (9, 9)).save(figures / "a.png")
    Image.new("RGB", (9, 9)).save(figures / "b.jpg")
    (figures / "c.svg").write_text('<?xml version="1.0"?>\n<svg xmlns="x"></svg>\n')
    check_content(write_manifest(package))

    png = (figures / "a.png").read_bytes()
    wrong = {
        "archive.png": b"PK\3\4" + bytes(100),
        "behind.png": png + b"PK\5\6" + bytes(18),
        "cut.png": png[:-5],
        "program.jpg": b"\x7fELF" + bytes(100),
        "png.jpg": png,
        "program.svg": b"\x7fELF <svg>\0</svg>",
        "text.svg": b"#!/bin/sh\nrm -r .\n",
        "empty.png": b"",
    }
    for name, data in wrong.items():
        (figures / name).write_bytes(data)
        opened = write_manifest(package)
        opened.verify()
        with pytest.raises(
            repzoo.PackageError, match=rf"{name} is not a valid (PNG|JPG|SVG) image"
        ):
            check_content(opened)
        (figures / name).unlink()
    check_content(Package.open(write_manifest(package).path))
