"""Read the weights of an exported graph back into the module that it was exported from.

The exporter renames and transposes weights, merges equal ones, and folds a batch normalisation into
the convolution before it. Names therefore do not say which weight belongs to which layer. Order
does: the layers of a module and the nodes of its graph are in the order of their computation.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from repzoo.errors import PackageError
from torch import Tensor, nn

__all__ = ["read_weights"]

Floats = NDArray[np.float32]

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
#: The operators that hold weights, and the layers that they are exported from.
_LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "Conv": (nn.Conv2d,),
    "ConvTranspose": (nn.ConvTranspose2d,),
    "Gemm": (nn.Linear,),
    "MatMul": (nn.Linear,),
    "BatchNormalization": (nn.BatchNorm2d,),
    "LayerNormalization": (nn.LayerNorm,),
}


@torch.no_grad()
def read_weights(path: Path, module: nn.Module, example: Tensor) -> None:
    """Set the weights of ``module`` to those of the graph in the file ``path``.

    A batch normalisation that was folded into its convolution becomes one with mean 0, variance 1,
    and the bias that is left; see :mod:`repzoo_training.pretrained.normalisation`.

    Args:
        path: a graph with float32 or halved weights.
        module: a module of the same structure, in evaluation mode.
        example: an input of the module.

    Raises:
        PackageError: If the module has a layer of another kind, or another structure.
    """
    graph = _Graph(onnx.load(path).graph)
    nodes = graph.weighted()
    node = next(nodes, None)
    folded: Floats | None = None  # the bias of the convolution before
    try:
        layers = _called_layers(module, example)
        for layer, following in itertools.pairwise([*layers, None]):
            assert layer is not None
            if folded is not None:
                _become_shift(layer, folded)
                folded = None
                continue
            if node is None or not isinstance(layer, _LAYERS[node.op_type]):
                found = "no further weights" if node is None else f"a {node.op_type}"
                raise ValueError(f"there is {found} where a {type(layer).__name__} is expected")
            weight, bias, *statistics = graph.weights(node)
            node = next(nodes, None)
            if (
                isinstance(layer, _CONVOLUTIONS)
                and isinstance(following, nn.BatchNorm2d)
                and (node is None or node.op_type != "BatchNormalization")
            ):
                folded = _zeros(following) if bias is None else bias
                bias = None
            _set(layer.weight, weight)
            if layer.bias is not None:
                _set(layer.bias, _zeros(layer) if bias is None else bias)
            if isinstance(layer, nn.BatchNorm2d):
                _set(layer.running_mean, statistics[0])
                _set(layer.running_var, statistics[1])
        if node is not None:
            raise ValueError(f"there is a {node.op_type} that the network does not have")
    except ValueError as error:
        raise PackageError(f"{path}: the weights cannot be read back: {error}") from None


class _Graph:
    """Nodes and constants of an ONNX graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = graph.node
        self.stored = {each.name: each for each in graph.initializer}
        self.made = {name: node for node in graph.node for name in node.output}
        self.users = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.users[name].append(node)

    def weighted(self) -> Iterator[onnx.NodeProto]:
        """Yield the nodes with weights, in order. A product of two activations has none."""
        for node in self.nodes:
            if node.op_type in _LAYERS and self.constant(node.input[1]) is not None:
                yield node

    def weights(self, node: onnx.NodeProto) -> list[Floats | None]:
        """Return weight and bias of a node in torch's layout; of a batch normalisation all four."""
        values = [self.constant(name) for name in node.input[1:]]
        weight, bias = values[0], values[1] if len(values) > 1 else None
        assert weight is not None  # see `weighted`
        if node.op_type == "Gemm":
            options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            return [weight if options.get("transB") else np.transpose(weight), bias]
        if node.op_type == "MatMul":
            for user in self.users[node.output[0]]:
                if user.op_type == "Add":
                    others = [self.constant(name) for name in user.input]
                    bias = next((other for other in others if other is not None), bias)
            return [np.transpose(weight), bias]
        return [weight, bias, *values[2:]]

    def constant(self, name: str) -> Floats | None:
        """Return a float constant, behind the Cast of a halved one, or None."""
        if name in self.stored:
            value = numpy_helper.to_array(self.stored[name])
            return value.astype(np.float32) if value.dtype.kind == "f" else None
        node = self.made.get(name)
        if node is not None and node.op_type in ("Cast", "Identity"):
            return self.constant(node.input[0])
        return None


def _called_layers(module: nn.Module, example: Tensor) -> list[nn.Module]:
    """Return the layers with parameters in the order in which they are called."""
    called: list[nn.Module] = []
    owners = [each for each in module.modules() if any(True for _ in each.parameters(False))]
    known = tuple(kind for kinds in _LAYERS.values() for kind in kinds)
    for owner in owners:
        if not isinstance(owner, known):
            raise ValueError(f"a {type(owner).__name__} has parameters of its own")
    handles = [
        owner.register_forward_pre_hook(lambda layer, _: called.append(layer)) for owner in owners
    ]
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    if len(called) != len(owners):
        raise ValueError("a layer is used twice, or not at all")
    return called


def _become_shift(layer: nn.Module, bias: Floats) -> None:
    """Make a batch normalisation add a bias, and do nothing else."""
    assert isinstance(layer, nn.BatchNorm2d)
    layer.reset_running_stats()
    layer.weight.fill_(np.sqrt(1 + layer.eps))
    _set(layer.bias, bias)


def _zeros(layer: nn.Module) -> Floats:
    assert isinstance(layer.bias, Tensor)
    return np.zeros(layer.bias.shape, np.float32)


def _set(parameter: Tensor | nn.Module | None, value: Floats | None) -> None:
    assert isinstance(parameter, Tensor)
    if value is None or parameter.shape != value.shape:
        found = "none" if value is None else list(value.shape)
        raise ValueError(f"weights are {found}, expected {list(parameter.shape)}")
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(value, np.float32)))
