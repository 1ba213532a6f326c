"""Quantise encoders to 8-bit integers, statically, by ONNX Runtime.

The ranges of activations come from training images. With dynamic ranges, the embedding of an image
would depend on the other images in its batch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from repzoo.files import temporary_folder

__all__ = ["CALIBRATION_IMAGES", "quantize"]

#: Training images from which the ranges of activations are taken.
CALIBRATION_IMAGES = 512
_BATCH = 64
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def quantize(path: Path, images: NDArray[np.uint8], *, keep_float32: tuple[str, ...] = ()) -> None:
    """Make an encoder compute in integers.

    Weights have 7 bits with one scale per output channel. Activations have 8 bits. With 8 bits for
    both, processors without VNNI saturate sums of two products, and outputs would depend on the
    machine (ONNX Runtime's documentation, "Quantize ONNX models"; measured in docs/results.md).

    Args:
        path: the encoder's graph with float32 weights. The file is replaced.
        images: images to take ranges from, uint8 ``[N, H, W, C]``, N at least 1.
        keep_float32: prefixes of parameters whose layers, and everything computed from them, stay
            in float32. Quantised outputs would have only 256 values within a fixed range.
    """
    with temporary_folder(path.parent, f".{path.name}.") as folder:
        whole = folder / "float32.onnx"
        # Folds constants. Symbolic shape inference is for transformers with loops and needs sympy.
        quant_pre_process(path, whole, skip_symbolic_shape=True)
        quantize_static(
            whole,
            path,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            op_types_to_quantize=[*_PRODUCTS, "Relu"],  # folded into the range of a product
            nodes_to_exclude=_kept(onnx.load(whole).graph, keep_float32),
        )
    onnx.checker.check_model(path, full_check=True)


def _kept(graph: onnx.GraphProto, prefixes: tuple[str, ...]) -> list[str]:
    """Return the names of the nodes that are not quantised."""
    weights = {each.name for each in graph.initializer}
    last = {name for name in weights if name.startswith(prefixes)}
    kept = []
    for node in graph.node:  # ONNX sorts them topologically
        if last.intersection(node.input):
            last.update(node.output)
            kept.append(node.name)
        elif node.op_type in _PRODUCTS and weights.isdisjoint(node.input):
            # Attention: a product of two activations saves nothing, and ONNX Runtime 1.31 fails.
            kept.append(node.name)
    return kept


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter(np.array_split(images, max(1, len(images) // _BATCH)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}
