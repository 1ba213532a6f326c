"""Export torch modules to ONNX graphs, optionally with float16 weights."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from repzoo.packages.config import ProbeSpec
from torch import Tensor, nn

from repzoo_training.evaluation.probes import Head

__all__ = ["OPSET", "halve", "write_graph", "write_probe"]

#: Supported by ONNX Runtime 1.14 and later.
OPSET = 18
#: Tensors with fewer elements stay float32, because halving them saves little.
HALVED_FROM = 1024


def write_graph(
    module: nn.Module,
    path: Path,
    examples: Mapping[str, Tensor],
    *,
    output_names: list[str],
    keep_float32: tuple[str, ...] = (),
    half: bool = False,
) -> None:
    """Export a module to a graph that takes any number of rows.

    Args:
        module: a module on the CPU in evaluation mode. Its inputs have equal numbers of rows.
        path: the ``.onnx`` file. Its folder must exist.
        examples: an example with at least two rows per argument, by its name in the graph. If
            the module's arguments have the same names, optional ones may be left out.
        output_names: names of the graph's outputs.
        keep_float32: prefixes of parameters that stay float32 if the others are halved.
        half: store large weights as float16. Computation stays in float32.
    """
    rows = torch.export.Dim("N", min=1, max=2**20)
    shapes = {name: {0: rows} for name in examples}
    by_name = examples.keys() <= inspect.signature(module.forward).parameters.keys()
    with _quiet():
        program = torch.onnx.export(
            module,
            () if by_name else (*examples.values(),),
            kwargs=dict(examples) if by_name else None,
            input_names=list(examples),
            output_names=output_names,
            dynamic_shapes=shapes if by_name else tuple(shapes.values()),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        # The exporter writes stack traces there, which contain paths of this machine.
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
    if half:
        halve(model, keep_float32)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def write_probe(folder: Path, head: Head) -> ProbeSpec:
    """Write the graph of a probe into the folder of a package, and return its record."""
    path = folder / head.spec.file
    path.parent.mkdir(exist_ok=True)
    dim = next(head.module.parameters()).shape[1]
    write_graph(
        head.module.eval(), path, {"embedding": torch.zeros(2, dim)}, output_names=["logits"]
    )
    return head.spec


def halve(model: onnx.ModelProto, keep: tuple[str, ...]) -> None:
    """Store large float32 weights as float16 behind a Cast, which runtimes fold on loading.

    Tensors with a value beyond float16 stay float32, such as precisions 1/s² of a narrow mixture.
    """
    casts = []
    for initializer in model.graph.initializer:
        weights = numpy_helper.to_array(initializer)
        if weights.dtype != np.float32 or weights.size < HALVED_FROM:
            continue
        if initializer.name.startswith(keep) or np.abs(weights).max() > np.finfo(np.float16).max:
            continue
        name = initializer.name
        stored = numpy_helper.from_array(weights.astype(np.float16), f"{name}.half")
        initializer.CopyFrom(stored)
        casts.append(helper.make_node("Cast", [stored.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints progress and warns of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
