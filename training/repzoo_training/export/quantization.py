"""8-bit integers in place of floats: static quantisation by ONNX Runtime.

Ranges of activations are those of some training images. Static, because with ranges of the batch
at hand an image's embedding would depend on what else is in its batch.
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

#: Training images that the ranges of activations are taken from.
CALIBRATION_IMAGES = 512
_BATCH = 64
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def quantize(path: Path, images: NDArray[np.uint8], *, keep_float32: tuple[str, ...] = ()) -> None:
    """Make the encoder in the file ``path`` compute in integers.

    Weights have 7 bits, one scale for each output channel; activations have 8. With 8 bits for
    both, processors without VNNI saturate sums of two products, and answers would depend on the
    machine (ONNX Runtime's documentation, "Quantize ONNX models"; seen, see RESULTS.md).

    Args:
        path: an encoder's graph with float32 weights; it is replaced.
        images: uint8 ``[N, H, W, C]``, N at least 1, to take ranges from.
        keep_float32: prefixes of parameters whose layers, and all that follows from them, stay
            in float32. Quantised outputs would have 256 values, and an end beyond which every
            unusual image is the same.
    """
    with temporary_folder(path.parent, f".{path.name}.") as folder:
        whole = folder / "float32.onnx"
        # Folds what is constant. Symbolic shapes are for transformers with loops, and need sympy.
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
            op_types_to_quantize=[*_PRODUCTS, "Relu"],  # which becomes a product's range
            nodes_to_exclude=_kept(onnx.load(whole).graph, keep_float32),
        )
    onnx.checker.check_model(path, full_check=True)


def _kept(graph: onnx.GraphProto, prefixes: tuple[str, ...]) -> list[str]:
    """The nodes that stay as they are, by name."""
    weights = {each.name for each in graph.initializer}
    last = {name for name in weights if name.startswith(prefixes)}
    kept = []
    for node in graph.node:  # sorted topologically, as ONNX wants
        if last.intersection(node.input):
            last.update(node.output)
            kept.append(node.name)
        elif node.op_type in _PRODUCTS and weights.isdisjoint(node.input):
            # Attention: of two activations nothing is saved, and ONNX Runtime 1.31 fails on it.
            kept.append(node.name)
    return kept


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter(np.array_split(images, max(1, len(images) // _BATCH)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}
