"""Whether an ONNX graph is one that a package may hold, found out before ONNX Runtime sees it.

A runtime parses whatever it is given, opens the files that a graph names, allocates what it claims
to hold and calls the code that its operators' domains stand for. `check_graph` reads the protobuf
messages itself, so it needs neither ``onnx`` nor a runtime, and lets pass only

- operators of the standard domain, also in the subgraphs of loops and branches; no functions of the
  graph's own, which can multiply to any number of nodes, and no training graphs;
- tensors whose values lie in the file: no external data, no sparse ones, no shape that claims more
  elements than there are bytes for;
- a known IR and operator set, and a sane number of nodes, fields and levels.

The tables of fields are closed: a field that is not in them, has another wire type, or comes twice
where one is meant, is refused. Parsers would skip it or merge it with its like; so what is checked
here is what every one of them sees.
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

#: Protobuf itself reads no larger message.
MAX_BYTES = 2**31 - 1
MAX_NODES = 20_000
#: Every field of every message counts: it is what reading costs.
MAX_FIELDS = 1_000_000
#: Messages in messages; a subgraph adds three. Protobuf stops at 100.
MAX_DEPTH = 50

#: Operators before 7 had other rules for shapes, and no runtime promises to run them.
OPSETS = range(7, 29)
IR_VERSIONS = range(3, 15)
_STANDARD_DOMAINS = (b"", b"ai.onnx")
#: Elements that one byte can hold are 4 (of 2 bits each); twice that, to be sure.
_ELEMENTS_PER_BYTE = 8
_MAX_RANK = 64

_View: TypeAlias = memoryview
#: What a message has in each of its fields, in order.
_Fields: TypeAlias = dict[int, list[int | memoryview]]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
#: The wire types of a scalar. Those with a star are repeated; numbers may be packed into one field.
_WIRE_TYPES = {
    "int": (_VARINT,),
    "float": (_FIXED32,),
    "bytes": (_LENGTH,),
    "bytes*": (_LENGTH,),
    "int*": (_VARINT, _LENGTH),
    "float*": (_FIXED32, _LENGTH),
    "double*": (_FIXED64, _LENGTH),
}

#: The fields of each message of onnx.proto: what is in them, by number; with a star those that may
#: come more than once.
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

#: Fields that there are, and why no package may have them.
_REFUSED = {
    ("ModelProto", 20): "it holds a training graph",
    ("ModelProto", 25): "it holds functions of its own; onnx.inliner can inline them",
    ("GraphProto", 15): "it holds a sparse tensor",
    ("AttributeProto", 22): "it holds a sparse tensor",
    ("AttributeProto", 23): "it holds a sparse tensor",
    ("TensorProto", 3): "it holds a tensor in segments",
    ("TensorProto", 13): "it holds a tensor with external data",
    ("TypeProto", 7): "it has a value of an opaque type",
}


def check_graph(path: Path) -> None:
    """Check that an ONNX file is one that a package may hold.

    Raises:
        PackageError: if it is not; it says why.
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
        raise PackageError(f"{path} is not a graph that a package may hold: {reason}") from None


class _Refused(Exception):
    """Why a graph is not let pass."""


class _Check:
    """Walks the messages of one model."""

    def __init__(self) -> None:
        self._nodes = 0
        self._fields = 0
        #: versions of the standard operators that are imported.
        self._opsets: list[int | _View] = []

    def message(self, kind: str, data: _View, depth: int) -> None:
        """Check a message and all below it."""
        if depth > MAX_DEPTH:
            raise _Refused(f"it has more than {MAX_DEPTH} levels")
        found: _Fields = {}
        for number, value in self._read(kind, data):
            inside, repeated, _ = _MESSAGES[kind][number].partition("*")
            if number in found and not repeated:
                raise _Refused(f"the field {number} of {kind} is there twice")
            found.setdefault(number, []).append(value)
            if inside in _MESSAGES:
                assert isinstance(value, memoryview)
                self.message(inside, value, depth + 1)
        if kind == "ModelProto":
            self._check_model(found)
        elif kind == "OperatorSetIdProto":
            # Other domains may be listed, as exporters do, as long as no node is of one.
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
        """The fields of a message, all of them known: a number, or the bytes that it holds."""
        known = _MESSAGES[kind]
        at = 0
        while at < len(data):
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise _Refused(f"it has more than {MAX_FIELDS} fields")
            tag, at = _varint(data, at)
            number, wire_type = tag >> 3, tag & 7
            if number not in known:
                reason = f"it has the field {number} in {kind}, which is not known here"
                raise _Refused(_REFUSED.get((kind, number), reason))
            if wire_type not in _WIRE_TYPES.get(known[number], (_LENGTH,)):
                raise _Refused(f"the field {number} of {kind} has the wire type {wire_type}")
            value: int | _View
            if wire_type == _VARINT:
                value, at = _varint(data, at)
            else:
                size = {_FIXED32: 4, _FIXED64: 8}.get(wire_type, 0)
                if wire_type == _LENGTH:
                    size, at = _varint(data, at)
                if size > len(data) - at:
                    raise _Refused("it ends too early")
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
            raise _Refused(f"it imports standard operators {len(self._opsets)} times, not once")
        if self._opsets[0] not in OPSETS:
            expected = f"{OPSETS[0]} to {OPSETS[-1]}"
            raise _Refused(f"its operator set is {self._opsets[0]}; expected {expected}")


def _check_node(found: _Fields) -> None:
    if not _is_standard(found.get(7)):
        name = ".".join(_text(value) for value in (*found[7], *found.get(4, [])))
        raise _Refused(f"it uses the operator {name}; only standard ones are allowed")


def _check_tensor(found: _Fields, size: int) -> None:
    if found.get(14, [0]) != [0]:
        raise _Refused("it holds a tensor with external data")
    dims: list[int] = []
    for value in found.get(1, []):
        dims += [value] if isinstance(value, int) else islice(_packed(value), _MAX_RANK + 1)
    if any(dim >= 2**63 for dim in dims):
        raise _Refused("it holds a tensor with a negative dimension")
    if len(dims) > _MAX_RANK or math.prod(dims) > _ELEMENTS_PER_BYTE * size:
        raise _Refused("it holds a tensor that claims more elements than it has bytes for")


def _varint(data: _View, at: int) -> tuple[int, int]:
    """The number that begins at a place, at most 64 bits of it, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Refused("it ends too early")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, at
    raise _Refused("it holds a number of more than 64 bits")


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
