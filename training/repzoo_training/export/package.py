"""``zoo export``: writes the model package of a run, all of it measured on the graphs that ship."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from repzoo.config import InputSpec, ModelConfig, ProbeSpec, ProviderClass, TrainingFacts
from repzoo.encoder import Encoder
from repzoo.errors import PackageError
from repzoo.files import temporary_folder
from repzoo.golden import write_golden
from repzoo.package import write_manifest
from repzoo.reference import is_name

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation import Head, evaluate_dataset
from repzoo_training.evaluation.report import EvaluationReport
from repzoo_training.export.card import write_card
from repzoo_training.export.graphs import write_graph
from repzoo_training.export.prior import fit_mixture, standard_normal, write_prior
from repzoo_training.figures import COLUMNS, save_png
from repzoo_training.trained import TrainedModel

__all__ = ["Parity", "export_run"]

#: How far ONNX may be from torch: absolute in float32, and in units of the latents' standard
#: deviation where weights are stored as float16.
PARITY = {"float32": 1e-4, "float16": 0.05}

Pixels = NDArray[np.uint8]
#: For every output of the graphs, the largest difference between ONNX and torch.
Parity = dict[str, float]


def export_run(
    run: str | Path,
    out: str | Path,
    train: ImageDataset,
    test: ImageDataset | None,
    *,
    name: str | None = None,
    half: bool = False,
    progress: bool = True,
) -> ModelConfig:
    """Write the package of the run in folder ``run`` to the folder ``out``.

    Args:
        run: a folder of ``zoo train``; its last checkpoint is taken.
        out: the package's folder, which must not exist; it appears whole or not at all.
        train: the images trained on: probes and the prior are fitted to their embeddings.
        test: what the card's numbers are measured on. Without it there are none but parity.
        name: of the model; by default the recipe's.
        half: store weights as float16 (half the size); computation stays in float32.
        progress: whether to show progress bars on a terminal.

    Raises:
        RunError: if there is no run with a checkpoint.
        PackageError: if ``out`` exists, the data is not what was trained on, or a graph differs
            from torch by more than ``PARITY``.
    """
    out = Path(out)
    if out.exists():
        raise PackageError(f"{out} exists already: remove it or choose another --out")
    model = TrainedModel(run)
    name = name or model.recipe.name
    if not is_name(name):
        raise PackageError(f"{name!r} cannot name a model: use a-z, 0-9 and . _ - between them")
    if train.sha256 != model.record.dataset_sha256:
        raise PackageError(
            f"{run} was trained on other images than {train.name} holds (sha256 "
            f"{model.record.dataset_sha256[:12]}, now {train.sha256[:12]})"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out.parent, f".{out.name}.") as folder:
        config = _write(folder, model, train, test, name, half, progress)
        folder.rename(out)
    return config


def _write(
    folder: Path,
    model: TrainedModel,
    train: ImageDataset,
    test: ImageDataset | None,
    name: str,
    half: bool,
    progress: bool,
) -> ModelConfig:
    recipe = model.recipe
    shown = test if test is not None else train
    pixels = shown.images[: 4 * COLUMNS]
    _write_networks(folder, model, half)

    # First without probes, to measure with the very graphs that ship; then with them.
    config = _describe(model, name, half, pixels)
    encoder = Encoder(folder, config, provider="cpu")
    parity = measure_parity(encoder, model, shown.images[:256])
    _check_parity(parity, config)

    report: EvaluationReport | None = None
    if test is not None:
        evaluation = evaluate_dataset(encoder, train, test, progress=progress)
        report = evaluation.report
        config = config.model_copy(
            update={"probes": tuple(_write_head(folder, head) for head in evaluation.heads)}
        )
    config.write(folder / "config.json")

    outputs = encoder.outputs(train.images[:60_000])
    if recipe.method == "simvae":
        prior = fit_mixture(outputs["embedding"], outputs["log_variance"], recipe.seed)
    else:
        prior = standard_normal(recipe.latent_dim)
    write_prior(folder / "prior.npz", prior)

    encoder = Encoder(folder, config, provider="cpu")
    examples = pixels if recipe.share_images else _own_images(encoder)
    latents = encoder.generate(8, seed=0).latents
    write_golden(folder, examples[:8], golden_files(examples), latents)
    _write_metrics(folder, report, parity, config)
    _write_figures(folder, encoder, examples)
    write_card(folder, config, report, parity, recipe)
    write_manifest(folder)
    return config


def _write_networks(folder: Path, model: TrainedModel, half: bool) -> None:
    height, width, channels = model.recipe.input
    # The layers next to the latents stay float32: see repzoo_training.networks.heads.
    write_graph(
        model.encoder,
        folder / "encoder.onnx",
        torch.zeros(2, height, width, channels, dtype=torch.uint8),
        input_name="images",
        output_names=["embedding", "log_variance"],
        keep_float32=("encoder.head.",),
        half=half,
    )
    write_graph(
        model.decoder,
        folder / "decoder.onnx",
        torch.zeros(2, model.recipe.latent_dim),
        input_name="latents",
        output_names=["images"],
        keep_float32=("decoder.stem.",),
        half=half,
    )


def _write_head(folder: Path, head: Head) -> ProbeSpec:
    path = folder / head.spec.file
    path.parent.mkdir(exist_ok=True)
    dim = next(head.module.parameters()).shape[1]
    write_graph(
        head.module.eval(),
        path,
        torch.zeros(2, dim),
        input_name="embedding",
        output_names=["logits"],
    )
    return head.spec


def _describe(model: TrainedModel, name: str, half: bool, pixels: Pixels) -> ModelConfig:
    """The record, without probes. Tolerances follow the scale of the model's own outputs."""
    recipe, record = model.recipe, model.record
    height, width, channels = recipe.input
    mean, log_variance = model.posterior(pixels)
    # Other processors sum in another order, and GPUs in coarser steps.
    tolerances: dict[str, dict[ProviderClass, float]] = {
        output: {"cpu": 2e-4 * scale, "cuda": 2e-3 * scale}
        for output, scale in (
            ("embedding", max(1.0, float(mean.std()))),
            ("log_variance", max(1.0, float(np.abs(log_variance).max()))),
            ("images", 1.0),
        )
    }
    return ModelConfig(
        name=name,
        summary=recipe.summary,
        method=recipe.method,
        latent_dim=recipe.latent_dim,
        precision="float16" if half else "float32",
        likelihood=recipe.likelihood.family,
        input=InputSpec(height=height, width=width, channels=channels),
        outputs=("embedding", "log_variance"),
        has_posterior=True,
        has_decoder=True,
        metric="euclidean",
        tolerances=tolerances,
        training=TrainingFacts(
            dataset=record.dataset,
            dataset_sha256=record.dataset_sha256,
            recipe=recipe.name,
            views=model.views,
            epochs=round(model.steps * recipe.images_per_step / record.dataset_images, 2),
            seed=recipe.seed,
            wall_seconds=round(model.wall_seconds, 1),
            device=record.device_name + (f", threads: {model.threads}" if model.threads else ""),
            code_commit=record.code_commit,
        ),
        licence=recipe.licence,
        paper=recipe.paper,
    )


def measure_parity(encoder: Encoder, model: TrainedModel, pixels: Pixels) -> Parity:
    """The largest absolute difference between ONNX and torch, on real images and on noise.

    ``embedding_relative`` is that of the embedding divided by the latents' standard deviation.
    """
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    images = np.concatenate([pixels, noise])
    mean, log_variance = model.posterior(images)
    outputs = encoder.outputs(images)
    latents = mean[: len(pixels)]
    difference = float(np.abs(outputs["embedding"] - mean).max())
    return {
        "embedding": difference,
        "embedding_relative": difference / float(latents.std()),
        "log_variance": float(np.abs(outputs["log_variance"] - log_variance).max()),
        "images": float(
            np.abs(encoder.generate(latents=latents).images - model.decode(latents)).max()
        ),
    }


def _check_parity(parity: Parity, config: ModelConfig) -> None:
    output = "embedding" if config.precision == "float32" else "embedding_relative"
    allowed = PARITY[config.precision]
    if not parity[output] <= allowed:
        raise PackageError(
            f"ONNX and torch differ by {parity[output]:.2g} in {output}; at most {allowed} is right"
        )


def _write_metrics(
    folder: Path, report: EvaluationReport | None, parity: Parity, config: ModelConfig
) -> None:
    metrics = {
        "evaluation": None if report is None else report.model_dump(mode="json"),
        "onnx_against_torch": {
            "protocol": (
                "largest absolute difference, the run in torch float32 against these graphs "
                f"(weights stored as {config.precision}) on ONNX Runtime's CPU provider, "
                "real images and uniform noise"
            ),
            **parity,
        },
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def golden_files(pixels: Pixels) -> Sequence[bytes]:
    """Encoded files of odd sizes and modes, which exercise every step of preprocessing."""
    image = Image.fromarray(pixels[0].squeeze()).convert("RGB")
    width, height = image.size
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: rotate by 90 degrees to show
    wide = image.resize((2 * width + 7, height + 1), Image.Resampling.BICUBIC)
    clear = image.resize((width - 5, 3 * height), Image.Resampling.NEAREST)
    clear.putalpha(clear.convert("L"))
    variants: list[tuple[Image.Image, str, dict[str, object]]] = [
        (image, "PNG", {}),
        (wide.convert("L"), "PNG", {}),
        (wide, "JPEG", {"exif": turned}),
        (clear, "PNG", {}),
        (wide.quantize(16), "PNG", {}),
        (Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG", {}),
    ]
    files = []
    for variant, kind, options in variants:
        buffer = io.BytesIO()
        variant.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def _own_images(encoder: Encoder) -> Pixels:
    """Samples of the model and seeded noise, in place of images that may not be passed on."""
    samples = encoder.generate(3 * COLUMNS, seed=1).images
    drawn = np.random.default_rng(0).random((COLUMNS, *encoder.config.input.shape))
    return (np.concatenate([samples, drawn]) * 255).round().astype(np.uint8)


def _write_figures(folder: Path, encoder: Encoder, examples: Pixels) -> None:
    """Reconstructions: rows of images and, below each, of what the model makes of them."""
    figures = folder / "figures"
    figures.mkdir()
    originals = examples[: 3 * COLUMNS].reshape(3, COLUMNS, *examples.shape[1:])
    decoded = encoder.reconstruct(examples[: 3 * COLUMNS]).images.reshape(originals.shape)
    pairs = np.stack([originals.astype(np.float32) / 255, decoded], axis=1)  # [3, 2, K, H, W, C]
    save_png(figures / "reconstructions.png", pairs.reshape(6, *originals.shape[1:]))
    samples = encoder.generate(4 * COLUMNS, seed=0).images
    save_png(figures / "samples.png", samples.reshape(4, COLUMNS, *samples.shape[1:]))
