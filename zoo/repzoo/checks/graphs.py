"""Check an ONNX graph before ONNX Runtime parses it.

A runtime opens the files that a graph names, allocates the tensors that it declares, and calls code
for custom operator domains. `check_graph` parses the protobuf messages itself, so it needs neither
``onnx`` nor a runtime. It allows only:

- operators of the standard domain, including those in the subgraphs of loops and branches. Training
  graphs and local functions, which can expand to any number of nodes, are refused;
- tensors whose values are in the file. External data, sparse tensors, and shapes with more elements
  than the file has bytes for are refused;
- known IR and operator set versions, and limited numbers of nodes, fields and nesting levels.

The field tables are closed: unknown fields, unexpected wire types and repeated singular fields are
refused. Parsers would skip or merge them differently; this way all parsers see what was checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from repzoo.errors import PackageError
from repzoo.files import open_regular

__all__ = ["check_graph"]

#: Protobuf's own limit on the size of a message.
MAX_BYTES = 2**31 - 1
MAX_NODES = 20_000
#: Fields of all messages together, which determine the cost of parsing.
MAX_FIELDS = 1_000_000
#: Nesting levels of messages. A subgraph adds three. Protobuf stops at 100.
MAX_DEPTH = 50

#: Operator sets before 7 have other broadcasting rules, and no runtime promises to run them.
OPSETS = range(7, 29)
IR_VERSIONS = range(3, 15)
_STANDARD_DOMAINS = (b"", b"ai.onnx")
#: One byte holds up to 4 elements of 2 bits. Allow twice as many.
_ELEMENTS_PER_BYTE = 8
_MAX_RANK = 64

_View: TypeAlias = memoryview
#: The values of each field of a message, in order.
_Fields: TypeAlias = dict[int, list[int | memoryview]]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
#: The wire types of scalars. A star marks repeated fields, whose numbers may be packed.
_WIRE_TYPES = {
    "int": (_VARINT,),
    "float": (_FIXED32,),
    "bytes": (_LENGTH,),
    "bytes*": (_LENGTH,),
    "int*": (_VARINT, _LENGTH),
    "float*": (_FIXED32, _LENGTH),
    "double*": (_FIXED64, _LENGTH),
}

#: The fields of each message of onnx.proto: their types by number. A star marks repeated fields.
_MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {
        1: "int",  # ir_version
        2: "bytes",  # producer_name
        3: "bytes",  # producer_version
        4: "bytes",  # domain
        5: "int",  # model_version
        6: "bytes",  # doc_string
        7: "GraphProto",
        8: "OperatorSetIdProto*",
        14: "StringStringEntryProto*",
    },
    "OperatorSetIdProto": {1: "bytes", 2: "int"},  # domain, version
    "StringStringEntryProto": {1: "bytes", 2: "bytes"},
    "GraphProto": {
        1: "NodeProto*",
        2: "bytes",  # name
        5: "TensorProto*",  # initializer
        10: "bytes",  # doc_string
        11: "ValueInfoProto*",  # input
        12: "ValueInfoProto*",  # output
        13: "ValueInfoProto*",  # value_info
        14: "TensorAnnotation*",
        16: "StringStringEntryProto*",
    },
    "TensorAnnotation": {1: "bytes", 2: "StringStringEntryProto*"},
    "NodeProto": {
        1: "bytes*",  # input
        2: "bytes*",  # output
        3: "bytes",  # name
        4: "bytes",  # op_type
        5: "AttributeProto*",
        6: "bytes",  # doc_string
        7: "bytes",  # domain
        8: "bytes",  # overload
        9: "StringStringEntryProto*",
    },
    "AttributeProto": {
        1: "bytes",  # name
        2: "float",
        3: "int",
        4: "bytes",
        5: "TensorProto",
        6: "GraphProto",
        7: "float*",
        8: "int*",
        9: "bytes*",
        10: "TensorProto*",
        11: "GraphProto*",
        13: "bytes",  # doc_string
        14: "TypeProto",
        15: "TypeProto*",
        20: "int",  # type
        21: "bytes",  # ref_attr_name
    },
    "TensorProto": {
        1: "int*",  # dims
        2: "int",  # data_type
        4: "float*",
        5: "int*",
        6: "bytes*",
        7: "int*",
        8: "bytes",  # name
        9: "bytes",  # raw_data
        10: "double*",
        11: "int*",
        12: "bytes",  # doc_string
        14: "int",  # data_location
        16: "StringStringEntryProto*",
    },
    "ValueInfoProto": {1: "bytes", 2: "TypeProto", 3: "bytes", 4: "StringStringEntryProto*"},
    "TypeProto": {
        1: "TypeProto.Tensor",
        4: "TypeProto.Sequence",
        5: "TypeProto.Map",
        6: "bytes",  # denotation
        9: "TypeProto.Optional",
    },
    "TypeProto.Tensor": {1: "int", 2: "TensorShapeProto"},
    "TypeProto.Sequence": {1: "TypeProto"},
    "TypeProto.Map": {1: "int", 2: "TypeProto"},
    "TypeProto.Optional": {1: "TypeProto"},
    "TensorShapeProto": {1: "Dimension*"},
    "Dimension": {1: "int", 2: "bytes", 3: "bytes"},
}

#: Known fields that are refused, with the reason.
_REFUSED = {
    ("ModelProto", 20): "it contains a training graph",
    ("ModelProto", 25): "it contains local functions; inline them with onnx.inliner",
    ("GraphProto", 15): "it contains a sparse tensor",
    ("AttributeProto", 22): "it contains a sparse tensor",
    ("AttributeProto", 23): "it contains a sparse tensor",
    ("TensorProto", 3): "it contains a segmented tensor",
    ("TensorProto", 13): "it contains a tensor with external data",
    ("TypeProto", 7): "it contains a value of an opaque type",
}


def check_graph(path: Path) -> None:
    """Check that a package may contain this ONNX file.

    Raises:
        PackageError: If the graph is refused. The message gives the reason.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if len(data) > MAX_BYTES:
            raise _Refused(f"it has more than {MAX_BYTES} bytes")
        _Check().message("ModelProto", memoryview(data), 1)
    except _Refused as reason:
        raise PackageError(f"{path} is not an allowed ONNX graph: {reason}") from None


class _Refused(Exception):
    """The reason to refuse a graph."""


class _Check:
    """Checks the messages of one model."""

    def __init__(self) -> None:
        self._nodes = 0
        self._fields = 0
        #: Imported versions of the standard operator set.
        self._opsets: list[int | _View] = []

    def message(self, kind: str, data: _View, depth: int) -> None:
        """Check a message and everything in it."""
        if depth > MAX_DEPTH:
            raise _Refused(f"it has more than {MAX_DEPTH} nesting levels")
        found: _Fields = {}
        for number, value in self._read(kind, data):
            inside, repeated, _ = _MESSAGES[kind][number].partition("*")
            if number in found and not repeated:
                raise _Refused(f"field {number} of {kind} occurs twice")
            found.setdefault(number, []).append(value)
            if inside in _MESSAGES:
                assert isinstance(value, memoryview)
                self.message(inside, value, depth + 1)
        if kind == "ModelProto":
            self._check_model(found)
        elif kind == "OperatorSetIdProto":
            # Exporters list other domains too. That is fine as long as no node uses them.
            if _is_standard(found.get(1)):
                self._opsets += found.get(2, [0])
        elif kind == "NodeProto":
            self._nodes += 1
            if self._nodes > MAX_NODES:
                raise _Refused(f"it has more than {MAX_NODES} nodes")
            _check_node(found)
        elif kind == "TensorProto":
            _check_tensor(found, len(data))

    def _read(self, kind: str, data: _View) -> Iterator[tuple[int, int | _View]]:
        """Yield the fields of a message as number and value. Unknown fields are refused."""
        known = _MESSAGES[kind]
        at = 0
        while at < len(data):
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise _Refused(f"it has more than {MAX_FIELDS} fields")
            tag, at = _varint(data, at)
            number, wire_type = tag >> 3, tag & 7
            if number not in known:
                reason = f"{kind} has the unknown field {number}"
                raise _Refused(_REFUSED.get((kind, number), reason))
            if wire_type not in _WIRE_TYPES.get(known[number], (_LENGTH,)):
                raise _Refused(f"field {number} of {kind} has the wire type {wire_type}")
            value: int | _View
            if wire_type == _VARINT:
                value, at = _varint(data, at)
            else:
                size = {_FIXED32: 4, _FIXED64: 8}.get(wire_type, 0)
                if wire_type == _LENGTH:
                    size, at = _varint(data, at)
                if size > len(data) - at:
                    raise _Refused("it is truncated")
                value = data[at : at + size]
                at += size
            yield number, value

    def _check_model(self, found: _Fields) -> None:
        if 7 not in found:
            raise _Refused("it has no graph")
        (version,) = found.get(1, [0])
        if version not in IR_VERSIONS:
            expected = f"{IR_VERSIONS[0]} to {IR_VERSIONS[-1]}"
            raise _Refused(f"its IR version is {version}; expected {expected}")
        if len(self._opsets) != 1:
            raise _Refused(f"it imports {len(self._opsets)} standard operator sets; expected 1")
        if self._opsets[0] not in OPSETS:
            expected = f"{OPSETS[0]} to {OPSETS[-1]}"
            raise _Refused(f"its operator set version is {self._opsets[0]}; expected {expected}")


def _check_node(found: _Fields) -> None:
    if not _is_standard(found.get(7)):
        name = ".".join(_text(value) for value in (*found[7], *found.get(4, [])))
        raise _Refused(f"it uses the operator {name}; only standard operators are allowed")


def _check_tensor(found: _Fields, size: int) -> None:
    if found.get(14, [0]) != [0]:
        raise _Refused("it contains a tensor with external data")
    dims: list[int] = []
    for value in found.get(1, []):
        dims += [value] if isinstance(value, int) else islice(_packed(value), _MAX_RANK + 1)
    if any(dim >= 2**63 for dim in dims):
        raise _Refused("it contains a tensor with a negative dimension")
    if len(dims) > _MAX_RANK or math.prod(dims) > _ELEMENTS_PER_BYTE * size:
        raise _Refused("it contains a tensor with more elements than it has bytes for")


def _varint(data: _View, at: int) -> tuple[int, int]:
    """Return the number of up to 64 bits at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Refused("it is truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, at
    raise _Refused("it contains a number of more than 64 bits")


def _packed(data: _View) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _is_standard(domain: list[int | _View] | None) -> bool:
    return domain is None or bytes(_bytes(domain[0])) in _STANDARD_DOMAINS


def _bytes(value: int | _View) -> _View:
    assert isinstance(value, memoryview)
    return value


def _text(value: int | _View) -> str:
    return bytes(_bytes(value)[:80]).decode("utf-8", "backslashreplace")
