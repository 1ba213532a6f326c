"""Write the package of an imported encoder, and check that it gives the encoder's own outputs."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from repzoo.checks.graphs import check_graph
from repzoo.errors import InvalidInput, PackageError
from repzoo.files import temporary_folder
from repzoo.packages.config import InputSpec, ModelConfig
from repzoo.packages.package import write_manifest
from repzoo.packages.reference import is_name
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.golden import write_golden
from repzoo.runtime.sessions import SessionFactory
from torch import Tensor, nn

from repzoo_training.export.card import write_card
from repzoo_training.export.graphs import halve, write_graph
from repzoo_training.importing.onnx_graphs import (
    Layout,
    Pool,
    choose_output,
    image_input,
    package_graph,
    read_graph,
)
from repzoo_training.importing.preprocessing import Flags, Preprocessing
from repzoo_training.importing.torch_models import (
    TorchEncoder,
    load_exported,
    load_timm,
    load_torchvision,
)

__all__ = ["KINDS", "import_encoder"]

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
#: Normalised images float32 ``[N, C, H, W]`` -> the output that is imported.
Reference: TypeAlias = Callable[[Floats], Floats]
Precision: TypeAlias = Literal["float32", "float16"]

KINDS = "FILE.onnx, FILE.pt2, timm:NAME or torchvision:NAME"
#: Files that are refused, with what to do instead.
_REFUSED = {
    ".safetensors": "holds weights without a network: import timm:NAME --weights FILE",
    **dict.fromkeys(
        (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".jit", ".ts", ".torchscript"),
        "is a pickle or TorchScript, which can run code: export the model to ONNX, or with "
        "torch.export.save",
    ),
}
#: Largest difference between the package and the encoder, in standard deviations of the embeddings.
_PARITY: dict[Precision, float] = {"float32": 1e-3, "float16": 0.05}
#: Largest difference between machines, in standard deviations of the embeddings.
_TOLERANCES: dict[Literal["cpu", "cuda"], float] = {"cpu": 1e-3, "cuda": 1e-2}
#: Images for this check. Large ones take time and space, so there are few.
_CHECKED = 4
_GOLDEN = 2


class _Found(NamedTuple):
    """An encoder as an ONNX model, and what is known about it."""

    model: onnx.ModelProto
    layout: Layout
    preprocessing: Preprocessing
    output: str
    reference: Reference
    title: str
    origin: str
    licence: str | None
    is_torch: bool


def import_encoder(
    source: str,
    out: str | Path,
    *,
    name: str | None = None,
    flags: Flags | None = None,
    weights: str = "pretrained",
    output: str | None = None,
    pool: Pool = "none",
    keep_head: bool = False,
    precision: Precision = "float32",
    metric: Literal["cosine", "euclidean"] = "cosine",
    licence: str | None = None,
    origin: str | None = None,
    summary: str | None = None,
    paper: str | None = None,
) -> ModelConfig:
    """Write the package of an image encoder that was trained elsewhere.

    The normalisation becomes part of the graph. The package then takes uint8 images, like all
    others, and has golden outputs and a card. Its outputs are compared with the encoder's own.

    Args:
        source: ``FILE.onnx``, ``FILE.pt2``, ``timm:NAME`` or ``torchvision:NAME``.
        out: the folder of the package, which must not exist. It appears complete or not at all.
        name: the name of the package; by default that of the model or file.
        flags: the preprocessing, where the source does not state it or is to be overruled.
        weights: of timm and torchvision: ``pretrained``, ``random``, or a safetensors file.
        output: the output of an ONNX file to use, if it has several.
        pool: what to take of an output ``[N, T, D]`` or ``[N, D, H, W]``: the ``first`` token, or
            the ``mean``.
        keep_head: keep the last layer of a timm model, such as CLIP's projection.
        precision: ``float16`` halves the stored weights, while computation stays in float32.
        metric: the recommended distance between embeddings.
        licence: the licence of the weights. Required, unless timm states it.
        origin: where the weights come from; by default the source, with the sha256 of a file.
        summary: one sentence for the card.
        paper: for example ``arXiv:2304.07193``.

    Raises:
        InvalidInput: If an argument is wrong or missing.
        PackageError: If the source cannot be loaded or is not an encoder that a package can hold.
    """
    out = Path(out)
    if out.exists():
        raise PackageError(f"{out} exists already: remove it or choose another --out")
    if name is not None:
        _check_name(name)
    if source.startswith("torchvision:"):
        _check_licence(licence, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = flags or Flags()
    with temporary_folder(out.parent, f".{out.name}.") as folder:
        found = _find(source, folder, flags, weights, output, pool, keep_head)
        name = name or re.sub(r"[^a-z0-9._-]+", "-", found.title.lower()).strip(".-_")
        _check_name(name)
        licence = _check_licence(licence or found.licence, source)
        config = _write(
            folder,
            found,
            source,
            pool,
            precision,
            {
                "name": name,
                "summary": summary or f"{found.title}, imported",
                "metric": metric,
                "licence": licence,
                "source": origin or found.origin,
                "paper": paper,
            },
        )
        folder.rename(out)
    return config


def _check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidInput(f"{name!r} cannot name a model: use a-z and 0-9, with . _ - between")


def _check_licence(licence: str | None, source: str) -> str:
    if licence is None:
        raise InvalidInput(
            f"{source} does not say under which licence its weights are: set --licence, for "
            "example apache-2.0, cc-by-nc-4.0 or unknown"
        )
    return licence


def _write(
    folder: Path,
    found: _Found,
    source: str,
    pool: Pool,
    precision: Precision,
    facts: dict[str, Any],
) -> ModelConfig:
    spec = found.preprocessing.spec
    pixels = _patterns(spec, _CHECKED)
    # One image at a time, so that the rows of a batch are compared with single images.
    images = found.preprocessing.normalise(pixels)
    outputs = [found.reference(image[None]) for image in images]
    expected = np.concatenate([_pooled(each, pool, source) for each in outputs])
    scale = float(expected.std())
    if not (np.isfinite(expected).all() and scale > 0):
        raise PackageError(
            f"{source} gives {'the same number' if scale == 0 else 'NaN or infinity'} for all of "
            f"{len(pixels)} test images"
        )
    graph = package_graph(found.model, found.layout, found.preprocessing, found.output, pool)
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = expected.shape[1]
    if precision == "float16":
        halve(graph, ())
    path = folder / "encoder.onnx"
    try:
        path.write_bytes(graph.SerializeToString())
        check_graph(path)
    except (PackageError, ValueError) as error:  # protobuf raises ValueError beyond 2 GiB
        raise PackageError(f"{source}: {error}".replace(f"{path} ", "")) from None
    config = ModelConfig(
        **facts,
        method="imported",
        latent_dim=expected.shape[1],
        precision=precision,
        input=spec,
        has_posterior=False,
        has_decoder=False,
        tolerances={"embedding": {kind: off * scale for kind, off in _TOLERANCES.items()}},
    )
    config.write(folder / "config.json")
    difference = _compare(folder, config, pixels, expected, source)
    if not difference <= _PARITY[precision] * scale:
        raise PackageError(
            f"the package of {source} and the encoder itself differ by {difference / scale:.2g} "
            f"standard deviations; at most {_PARITY[precision]:g} is allowed"
            + ("; leave out --precision float16" if precision == "float16" else "")
        )
    metrics: dict[str, object] = {"evaluation": None}
    if found.is_torch:
        metrics["onnx_against_torch"] = {
            "protocol": (
                "largest absolute difference between torch float32 and this graph (weights stored "
                f"as {precision}) on ONNX Runtime's CPU provider, on {len(pixels)} patterns"
            ),
            "embedding": difference,
            "latents_std": scale,
            "embedding_relative": difference / scale,
        }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    write_golden(folder, pixels[:_GOLDEN], _files(pixels[1]))
    write_card(folder)
    write_manifest(folder)
    return config


def _compare(
    folder: Path, config: ModelConfig, pixels: Pixels, expected: Floats, source: str
) -> float:
    """Return the largest difference from single images, for batches of all, of two and of one."""
    try:
        encoder = Encoder(folder, config, provider="cpu")
        batches = [encoder.embed(pixels[:rows]) for rows in (len(pixels), 2, 1)]
    except Exception as error:  # the runtime's exception classes are not public
        raise PackageError(
            f"{source} runs with one image, but not with several: export it with a dynamic batch "
            f"dimension ({' '.join(str(error).split())[:200]})"
        ) from error
    return max(float(np.abs(each - expected[: len(each)]).max()) for each in batches)


def _find(
    source: str,
    folder: Path,
    flags: Flags,
    weights: str,
    output: str | None,
    pool: Pool,
    keep_head: bool,
) -> _Found:
    library, colon, name = source.partition(":")
    is_name = bool(colon) and library in ("timm", "torchvision")
    if not is_name and (weights != "pretrained" or keep_head):
        raise InvalidInput("--weights and --keep-head are for timm:NAME and torchvision:NAME")
    if keep_head and library == "torchvision":
        raise InvalidInput("--keep-head is for timm:NAME")
    path = Path(source)
    if is_name:
        if library == "timm":
            encoder = load_timm(name, weights, flags, keep_head=keep_head)
        else:
            encoder = load_torchvision(name, weights, flags)
        return _from_torch(encoder, source, name, folder, flags, pool)
    if path.suffix.lower() in _REFUSED:
        raise InvalidInput(f"{source} {_REFUSED[path.suffix.lower()]}")
    if path.suffix.lower() not in (".onnx", ".pt2"):
        raise InvalidInput(f"{source!r} is not something to import: expected {KINDS}")
    if not path.is_file():
        raise InvalidInput(f"{source} does not exist")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = f"{path.name}, sha256 {digest}"
    if path.suffix.lower() == ".pt2":
        encoder = load_exported(path)._replace(origin=origin)
        return _from_torch(encoder, source, path.stem, folder, flags, pool)
    model = read_graph(path)
    layout, preprocessing = image_input(model, source)
    chosen = choose_output(model, output, source)
    return _Found(
        model,
        layout,
        flags.applied_to(preprocessing, source),
        chosen,
        _running(path, layout, chosen, source),
        path.stem,
        origin,
        None,
        False,
    )


def _from_torch(
    encoder: TorchEncoder, source: str, title: str, folder: Path, flags: Flags, pool: Pool
) -> _Found:
    """Export a torch model to ONNX."""
    preprocessing = flags.applied_to(encoder.preprocessing, source)
    module = _OneTensor(encoder.module)
    height, width, channels = preprocessing.spec.shape
    path = folder / "imported.onnx"
    try:
        with torch.inference_mode():
            module(torch.zeros(2, channels, height, width))
        write_graph(
            module,
            path,
            {"pixels": torch.zeros(2, channels, height, width)},
            output_names=["features"],
        )
    except InvalidInput as error:
        raise InvalidInput(f"{source} {error}") from None
    except Exception as error:  # torch's exporter has many
        reason = " ".join(str(error).split())[:400]
        raise PackageError(f"{source} cannot be exported to ONNX: {reason}") from error
    model = read_graph(path)
    path.unlink()
    path.with_name(path.name + ".data").unlink(missing_ok=True)

    def reference(images: Floats) -> Floats:
        with torch.inference_mode():
            features: Floats = module(torch.from_numpy(images)).float().numpy()
        return features

    return _Found(
        model,
        "NCHW",
        preprocessing,
        "features",
        reference,
        title,
        encoder.origin,
        encoder.licence,
        True,
    )


class _OneTensor(nn.Module):
    """A module that returns one tensor, also if it is in a tuple or a dictionary."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        found = torch.utils._pytree.tree_leaves(self.module(pixels))
        if len(found) != 1 or not isinstance(found[0], Tensor):
            raise InvalidInput(f"returns {len(found)} values; expected one tensor of features")
        return found[0]


def _running(path: Path, layout: Layout, output: str, source: str) -> Reference:
    """Return a function that runs an ONNX file as it is."""
    session = SessionFactory("cpu", None).create(path)
    (node,) = session.get_inputs()

    def run(images: Floats) -> Floats:
        rows = images if layout == "NCHW" else images.transpose(0, 2, 3, 1)
        try:
            (found,) = session.run([output], {node.name: np.ascontiguousarray(rows)})
        except Exception as error:  # the runtime's exception classes are not public
            raise PackageError(f"{source} cannot run one image: {error}") from error
        return np.asarray(found)

    return run


def _pooled(features: Floats, pool: Pool, source: str) -> Floats:
    """Return the embeddings ``[N, D]`` of features."""
    shape = ["N", *features.shape[1:]]
    if features.dtype != np.float32:
        raise PackageError(f"{source} gives {features.dtype}; expected float32 features")
    if pool == "none" and features.ndim == 2:
        return features
    if pool == "first" and features.ndim == 3:
        return features[:, 0]
    if pool == "mean" and features.ndim in (3, 4):
        averaged: Floats = features.mean(axis=1 if features.ndim == 3 else (2, 3))
        return averaged
    if features.ndim == 2:
        raise InvalidInput(f"{source} gives embeddings {shape} already: leave out --pool")
    choices = {3: "--pool first, the class token, or --pool mean", 4: "--pool mean"}
    choice = choices.get(features.ndim, "another --output")
    raise InvalidInput(f"{source} gives features {shape}; an embedding is [N, D]: choose {choice}")


def _patterns(spec: InputSpec, count: int) -> Pixels:
    """Return seeded noise in squares, uint8 ``[N, H, W, C]``. Large squares compress well."""
    random = np.random.default_rng(0)
    images = []
    for number in range(count):
        side = max(1, min(spec.height, spec.width) // (4 * 2**number))
        rows, columns = -(-spec.height // side), -(-spec.width // side)
        coarse = random.integers(0, 256, (rows, columns, spec.channels), dtype=np.uint8)
        image = coarse.repeat(side, axis=0).repeat(side, axis=1)
        images.append(image[: spec.height, : spec.width])
    return np.stack(images)


def _files(pixels: NDArray[np.uint8]) -> list[bytes]:
    """Return encoded files of an image: a larger, turned JPEG, and a smaller, transparent PNG."""
    image = Image.fromarray(pixels.squeeze()).convert("RGB")
    width, height = image.size
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: rotate by 90 degrees
    larger = image.resize((2 * width + 7, width + height + 3), Image.Resampling.BICUBIC)
    smaller = image.resize((width + 9, max(1, height - 5)), Image.Resampling.NEAREST)
    smaller.putalpha(smaller.convert("L"))
    files = [io.BytesIO(), io.BytesIO()]
    larger.save(files[0], "JPEG", exif=turned)
    smaller.save(files[1], "PNG")
    return [file.getvalue() for file in files]
