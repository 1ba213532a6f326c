"""Small model packages for tests: random linear graphs with all parts of a package.

Tests use the fixture `make_package`. From a shell:

    python tests/package_factory.py DIR NAME
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from repzoo.packages.arrays import write_arrays
from repzoo.packages.config import (
    ContentSpec,
    InputSpec,
    ModelConfig,
    ProbeSpec,
    TrainingFacts,
    UncertaintySpec,
)
from repzoo.packages.package import write_manifest
from repzoo.runtime.golden import write_golden

DIGITS = ProbeSpec(task="digit", classes=tuple("0123456789"))
ATTRIBUTES = ProbeSpec(
    task="attributes", classes=("smiling", "hat", "glasses"), activation="sigmoid"
)


def make_package(
    directory: Path,
    name: str = "tiny",
    *,
    posterior: bool = True,
    decoder: bool = True,
    uncertainty: bool = False,
    content: bool = False,
    simvae: Mapping[str, object] | None = None,
    probes: Sequence[ProbeSpec] = (DIGITS,),
    input_spec: InputSpec | None = None,
    latent_dim: int = 4,
    seed: int = 0,
) -> Path:
    """Write the package ``directory/name`` and return its folder.

    embedding = images/255 @ A, log_variance = -|embedding @ B| - 1 (so variances are below 0.37),
    images = sigmoid(latents @ A'), logits = embedding @ P, content_mean = embedding + 1,
    content_variance = embedding² + 1, and uncertainty = sigmoid(sum of the embedding, or of the
    content variance). ``simvae`` are the options of a SimVAE recipe, which metrics.json then says
    trained the model. ``seed`` determines the matrices, so another seed gives another revision.
    """
    spec = input_spec or InputSpec(height=8, width=8, channels=1)
    rng = np.random.default_rng(seed)
    path = Path(directory) / name
    path.mkdir(parents=True)
    size = int(np.prod(spec.shape))
    weights = (rng.normal(size=(size, latent_dim)) / np.sqrt(size)).astype(np.float32)
    spread = rng.normal(size=(latent_dim, latent_dim)).astype(np.float32)

    rows = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *spec.shape])
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "white"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "A"], ["embedding"]),
    ]
    constants = {"white": np.float32(255), "A": weights}
    outputs = [_floats("embedding", latent_dim)]
    if posterior:
        nodes += [
            helper.make_node("MatMul", ["embedding", "B"], ["spread"]),
            helper.make_node("Abs", ["spread"], ["size"]),
            helper.make_node("Neg", ["size"], ["negative"]),
            helper.make_node("Sub", ["negative", "one"], ["log_variance"]),
        ]
        constants |= {"B": spread, "one": np.float32(1)}
        outputs.append(_floats("log_variance", latent_dim))
    _write_graph(path / "encoder.onnx", nodes, [rows], outputs, constants)

    if decoder:
        _write_graph(
            path / "decoder.onnx",
            [
                helper.make_node("MatMul", ["latents", "At"], ["flat"]),
                helper.make_node("Sigmoid", ["flat"], ["levels"]),
                helper.make_node("Reshape", ["levels", "shape"], ["images"]),
            ],
            [_floats("latents", latent_dim)],
            [_floats("images", *spec.shape)],
            {"At": weights.T.copy(), "shape": np.array([-1, *spec.shape])},
        )
        prior = {
            "weights": np.ones(1, np.float32),
            "means": np.zeros((1, latent_dim), np.float32),
            "scales": np.ones((1, latent_dim), np.float32),
        }
        write_arrays(path / "prior.npz", prior)

    if content:
        _write_graph(
            path / "content.onnx",
            [
                helper.make_node("Add", ["embedding", "one"], ["content_mean"]),
                helper.make_node("Mul", ["embedding", "embedding"], ["square"]),
                helper.make_node("Add", ["square", "one"], ["content_variance"]),
            ],
            [_floats("embedding", latent_dim)],
            [_floats(name, latent_dim) for name in ("content_mean", "content_variance")],
            {"one": np.float32(1)},
        )

    of = "content_variance" if content else "embedding"
    if uncertainty:
        _write_graph(
            path / "uncertainty.onnx",
            [
                helper.make_node("ReduceSum", [of, "axis"], ["sum"], keepdims=0),
                helper.make_node("Sigmoid", ["sum"], ["uncertainty"]),
            ],
            [_floats(of, latent_dim)],
            [_floats("uncertainty")],
            {"axis": np.array([1])},
        )

    for probe in probes:
        (path / "probes").mkdir(exist_ok=True)
        head = rng.normal(size=(latent_dim, len(probe.classes))).astype(np.float32)
        _write_graph(
            path / probe.file,
            [helper.make_node("MatMul", ["embedding", "P"], ["logits"])],
            [_floats("embedding", latent_dim)],
            [_floats("logits", len(probe.classes))],
            {"P": head},
        )

    names = ["embedding", *(["log_variance"] if posterior else [])]
    measured = [*names, "images", "uncertainty", "content_mean", "content_variance"]
    tolerances = {each: {"cpu": 1e-4, "cuda": 1e-3} for each in measured}
    ModelConfig(
        name=name,
        summary="A random linear model for tests",
        method="random",
        latent_dim=latent_dim,
        likelihood="bernoulli" if decoder else None,
        input=spec,
        outputs=tuple(names),
        has_posterior=posterior,
        has_decoder=decoder,
        probes=tuple(probes),
        uncertainty=UncertaintySpec(probability_of="nothing", fitted_on="nothing", inputs=(of,))
        if uncertainty
        else None,
        content=ContentSpec(
            target="nothing", fitted_on="nothing", unit_length=False, inputs=("embedding",)
        )
        if content
        else None,
        tolerances=tolerances,
        training=TrainingFacts(
            dataset="none",
            recipe="none",
            views=0,
            epochs=0,
            seed=seed,
            wall_seconds=0,
            device="cpu",
        ),
        licence="Apache-2.0",
    ).write(path / "config.json")

    metrics: dict[str, object] = {"protocol": "none"}
    if simvae is not None:
        metrics["training"] = {"recipe": {"method": "simvae", "options": dict(simvae)}}
    (path / "metrics.json").write_text(json.dumps(metrics) + "\n")
    (path / "README.md").write_text(f"# {name}\n\nA random linear model for tests.\n")
    pixels = rng.integers(0, 256, (4, *spec.shape), dtype=np.uint8)
    latents = rng.normal(size=(3, latent_dim)).astype(np.float32) if decoder else None
    write_golden(path, pixels, [_png(rng, "L", (11, 7)), _png(rng, "RGBA", (5, 13))], latents)
    write_manifest(path)
    return path


def _floats(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])


def _write_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> None:
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _png(rng: np.random.Generator, mode: str, size: tuple[int, int]) -> bytes:
    channels = len(mode) if mode != "L" else 0
    shape = (size[1], size[0], channels) if channels else (size[1], size[0])
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    print(make_package(Path(sys.argv[1]), *sys.argv[2:3]))
