"""``zoo export``: writes the model package of a run, all of it measured on the graphs that ship."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import PackageError
from repzoo.files import temporary_folder
from repzoo.packages.config import (
    InputSpec,
    ModelConfig,
    Precision,
    ProbeSpec,
    ProviderClass,
    TrainingFacts,
)
from repzoo.packages.package import write_manifest
from repzoo.packages.reference import is_name
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.golden import write_golden

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation import DEFAULT_GROUPS, Head, evaluate_dataset
from repzoo_training.evaluation.frozen_decoder import with_frozen_decoder
from repzoo_training.evaluation.report import EvaluationReport, Group
from repzoo_training.export.card import write_card
from repzoo_training.export.graphs import write_graph
from repzoo_training.export.inputs import golden_files, own_images
from repzoo_training.export.parity import Parity, check_parity, measure_parity
from repzoo_training.export.pictures import draw_decoded, draw_neighbours
from repzoo_training.export.quantization import CALIBRATION_IMAGES, quantize
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.objectives import find_method
from repzoo_training.prior import Prior, fit_mixture, standard_normal, write_prior
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.watching.figures import COLUMNS

__all__ = ["export_run"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

#: Images that golden inputs and figures are taken from.
EXAMPLES = 4 * COLUMNS
#: Training images that the prior is fitted to, and that neighbours are looked for in.
MOST_EMBEDDED = 60_000
#: The layers next to the latents stay float32: see repzoo_training.networks.heads.
_LAST = ("encoder.head.",)
#: How far embeddings in integers may be off on another machine, in their standard deviations: the
#: sums are exact, but what is rounded to one of 256 values at the edge of two can go either way.
#: Seen between two of ONNX Runtime's implementations: at most 0.02 on the zoo's models, 0.09 on
#: ResNet-50 with random weights.
_INT8_TOLERANCE = 0.1


def export_run(
    run: str | Path,
    out: str | Path,
    train: ImageDataset,
    test: ImageDataset | None,
    *,
    name: str | None = None,
    precision: Precision = "float32",
    decoder: bool = False,
    measures: Collection[Group] = DEFAULT_GROUPS,
    progress: bool = True,
) -> ModelConfig:
    """Write the package of the run in folder ``run`` to the folder ``out``.

    Args:
        run: a folder of ``zoo train``; its last checkpoint is taken.
        out: the package's folder, which must not exist; it appears whole or not at all.
        train: the images trained on: probes and the prior are fitted to their embeddings.
        test: what the card's numbers are measured on. Without it there are none but parity.
        name: of the model; by default the recipe's.
        precision: ``float16`` stores weights so (half the size); computation stays in float32.
            ``int8`` has the encoder compute in integers, see `repzoo_training.export.quantization`,
            and stores the decoder as ``float16`` does.
        decoder: train a decoder on the frozen encoder, for a method without one of its own.
        measures: groups that the card has numbers of.
        progress: whether to show progress bars on a terminal.

    Raises:
        RunError: if there is no run with a checkpoint.
        PackageError: if ``out`` exists, the data is not what was trained on, a decoder is wanted
            of a method that has one, or a graph differs from torch by more than it may.
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
    if decoder:
        if model.decoder is not None:
            raise PackageError(f"{model.recipe.method} has a decoder of its own: no --decoder")
        model = with_frozen_decoder(run, model, train, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out.parent, f".{out.name}.") as folder:
        config = _write(folder, model, train, test, name, precision, measures, progress)
        folder.rename(out)
    return config


def _write(
    folder: Path,
    model: TrainedModel,
    train: ImageDataset,
    test: ImageDataset | None,
    name: str,
    precision: Precision,
    measures: Collection[Group],
    progress: bool,
) -> ModelConfig:
    recipe = model.recipe
    shown = test if test is not None else train
    pixels = shown.images[:EXAMPLES]
    _write_networks(folder, model, precision)
    if precision == "int8":
        # Not the first ones, which in a folder of classes are all of one class.
        every = -(-len(train.images) // CALIBRATION_IMAGES)
        quantize(folder / "encoder.onnx", train.images[::every], keep_float32=_LAST)

    # First without probes, to measure with the very graphs that ship; then with them.
    config = _describe(model, name, precision, pixels)
    encoder = Encoder(folder, config, provider="cpu")
    parity = measure_parity(encoder, model, shown.images[:256])
    check_parity(parity, config)

    outputs = encoder.outputs(train.images[:MOST_EMBEDDED])
    if config.has_decoder:
        write_prior(folder / "prior.npz", _prior(recipe, outputs))
        encoder = Encoder(folder, config, provider="cpu")  # which now can generate

    report: EvaluationReport | None = None
    if test is not None and (_has_labels(test) or config.has_decoder):
        evaluation = evaluate_dataset(encoder, train, test, measures=measures, progress=progress)
        report = evaluation.report
        config = config.model_copy(
            update={"probes": tuple(_write_head(folder, head) for head in evaluation.heads)}
        )
    config.write(folder / "config.json")

    encoder = Encoder(folder, config, provider="cpu")
    examples = pixels if recipe.share_images else own_images(encoder, EXAMPLES)
    latents = encoder.generate(8, seed=0).latents if config.has_decoder else None
    write_golden(folder, examples[:8], golden_files(examples), latents)
    _write_metrics(folder, report, parity, config)
    figures = folder / "figures"
    near = not config.has_posterior and recipe.share_images and test is not None
    if config.has_decoder or near:
        figures.mkdir()
    if config.has_decoder:
        draw_decoded(figures, encoder, examples)
    if near and test is not None:
        draw_neighbours(figures, encoder, train, outputs["embedding"], test)
    write_card(folder, config, report, parity, model)
    write_manifest(folder)
    return config


def _has_labels(dataset: ImageDataset) -> bool:
    return dataset.labels is not None or dataset.attributes is not None


def _prior(recipe: Recipe, outputs: Mapping[str, Floats]) -> Prior:
    """What latents are drawn from: a generative model's own prior, where it is explicit."""
    if find_method(recipe.method).generative and recipe.method != "simvae":
        return standard_normal(recipe.latent_dim)
    return fit_mixture(outputs["embedding"], outputs.get("log_variance"), recipe.seed)


def _write_networks(folder: Path, model: TrainedModel, precision: Precision) -> None:
    height, width, channels = model.recipe.input
    write_graph(
        model.encoder,
        folder / "encoder.onnx",
        {"images": torch.zeros(2, height, width, channels, dtype=torch.uint8)},
        output_names=list(model.output_names),
        keep_float32=_LAST,
        half=precision == "float16",
    )
    if model.decoder is None:
        return
    write_graph(
        model.decoder,
        folder / "decoder.onnx",
        {"latents": torch.zeros(2, model.recipe.latent_dim)},
        output_names=["images"],
        keep_float32=("decoder.stem.",),
        half=precision != "float32",
    )


def _write_head(folder: Path, head: Head) -> ProbeSpec:
    path = folder / head.spec.file
    path.parent.mkdir(exist_ok=True)
    dim = next(head.module.parameters()).shape[1]
    write_graph(
        head.module.eval(),
        path,
        {"embedding": torch.zeros(2, dim)},
        output_names=["logits"],
    )
    return head.spec


def _describe(model: TrainedModel, name: str, precision: Precision, pixels: Pixels) -> ModelConfig:
    """The record, without probes. Tolerances follow the scale of the model's own outputs."""
    recipe, record = model.recipe, model.record
    height, width, channels = recipe.input
    outputs = model.outputs(pixels)
    scales = {"embedding": max(1.0, float(outputs["embedding"].std()))}
    if model.has_posterior:
        scales["log_variance"] = max(1.0, float(np.abs(outputs["log_variance"]).max()))
    if model.decoder is not None:
        scales["images"] = 1.0
    # Other processors sum in another order, and GPUs in coarser steps.
    tolerances: dict[str, dict[ProviderClass, float]] = {
        output: {"cpu": 2e-4 * scale, "cuda": 2e-3 * scale} for output, scale in scales.items()
    }
    if precision == "int8":
        for output in model.output_names:
            off = _INT8_TOLERANCE * float(outputs[output].std())
            tolerances[output] = {k: max(off, least) for k, least in tolerances[output].items()}
    return ModelConfig(
        name=name,
        summary=recipe.summary,
        method=recipe.method,
        latent_dim=recipe.latent_dim,
        precision=precision,
        likelihood=_likelihood(model),
        input=InputSpec(height=height, width=width, channels=channels),
        outputs=model.output_names,
        has_posterior=model.has_posterior,
        has_decoder=model.decoder is not None,
        metric=find_method(recipe.method).metric,
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


def _likelihood(model: TrainedModel) -> Literal["bernoulli", "gaussian"] | None:
    """Of the decoder that a method was trained with; an added one has none that counts."""
    spec = model.recipe.likelihood
    return None if spec is None or not model.has_posterior else spec.family


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
