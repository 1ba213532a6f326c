"""Write the model package of a run, measured on the exact graphs that are shipped."""

from __future__ import annotations

import json
from collections.abc import Collection
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
    ProviderClass,
    ResizePolicy,
    TrainingFacts,
)
from repzoo.packages.package import write_manifest
from repzoo.packages.reference import is_name
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.golden import write_golden

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation import DEFAULT_GROUPS, evaluate_dataset
from repzoo_training.evaluation.frozen_decoder import BATCH, STEPS, with_frozen_decoder
from repzoo_training.evaluation.report import EvaluationReport, Group
from repzoo_training.export.card import AddedDecoder, Embeddings, TrainingRecord, write_card
from repzoo_training.export.graphs import write_graph, write_probe
from repzoo_training.export.inputs import golden_files, own_images
from repzoo_training.export.parity import Parity, check_parity, measure_parity
from repzoo_training.export.pictures import draw_decoded, draw_neighbours, draw_views
from repzoo_training.export.quantization import CALIBRATION_IMAGES, quantize
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.objectives import find_method
from repzoo_training.prior import MOST_IMAGES, fit_prior, write_prior
from repzoo_training.watching.figures import COLUMNS

__all__ = ["export_run"]

Pixels = NDArray[np.uint8]

#: Images from which golden inputs and figures are taken.
EXAMPLES = 4 * COLUMNS
#: The layers next to the latents stay float32, see `repzoo_training.networks.heads`.
_LAST = ("encoder.head.",)
#: Largest difference of int8 embeddings between machines, in their standard deviations. The sums
#: are exact, but a value between two of the 256 levels can be rounded either way. Two of ONNX
#: Runtime's implementations differ by at most 0.02 on the zoo's models, and by 0.09 on a ResNet-50
#: with random weights.
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
    """Write the package of a run.

    Args:
        run: folder of a training run. Its last checkpoint is exported.
        out: folder of the package, which must not exist. It appears complete or not at all.
        train: the images that the run was trained on. Probes and the prior are fitted to their
            embeddings.
        test: images to measure on. Without them the card only has the parity with torch.
        name: name of the model; by default the recipe's name.
        precision: ``float16`` halves the stored weights, while computation stays in float32.
            ``int8`` makes the encoder compute in integers, see
            `repzoo_training.export.quantization`, and stores the decoder like ``float16``.
        decoder: train a decoder on the frozen encoder, for a method without one.
        measures: groups to measure for the card.
        progress: show progress bars on a terminal.

    Raises:
        RunError: If the folder is not a run, or the run has no checkpoint.
        PackageError: If ``out`` exists, the run was trained on other images, ``decoder`` is set for
            a method that has one, or a graph differs too much from torch.
    """
    out = Path(out)
    if out.exists():
        raise PackageError(f"{out} exists already: remove it or choose another --out")
    model = TrainedModel(run)
    name = name or model.recipe.name
    if not is_name(name):
        raise PackageError(f"{name!r} cannot name a model: use a-z and 0-9, with . _ - in between")
    if train.sha256 != model.record.dataset_sha256:
        raise PackageError(
            f"{run} was not trained on the images of {train.name}: their sha256 was "
            f"{model.record.dataset_sha256[:12]} then and is {train.sha256[:12]} now"
        )
    if decoder:
        if model.decoder is not None:
            raise PackageError(
                f"{model.recipe.method} has a decoder of its own: leave --decoder out"
            )
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
        # Spread over the data set: the first images of a folder of classes are all of one class.
        every = -(-len(train.images) // CALIBRATION_IMAGES)
        quantize(folder / "encoder.onnx", train.images[::every], keep_float32=_LAST)

    # Measure with the graphs that ship, before there are probes.
    config = _describe(model, name, precision, pixels)
    encoder = Encoder(folder, config, provider="cpu")
    parity = measure_parity(encoder, model, shown.images[:256])
    check_parity(parity, config)

    outputs = encoder.outputs(train.images[:MOST_IMAGES])
    if config.has_decoder:
        write_prior(folder / "prior.npz", fit_prior(outputs, recipe.seed))
        encoder = Encoder(folder, config, provider="cpu")  # it can generate now

    report: EvaluationReport | None = None
    if test is not None and (_has_labels(test) or config.has_decoder):
        evaluation = evaluate_dataset(encoder, train, test, measures=measures, progress=progress)
        report = evaluation.report
        config = config.model_copy(
            update={"probes": tuple(write_probe(folder, head) for head in evaluation.heads)}
        )
    config.write(folder / "config.json")

    encoder = Encoder(folder, config, provider="cpu")
    examples = pixels if recipe.share_images else own_images(encoder, EXAMPLES)
    latents = encoder.generate(8, seed=0).latents if config.has_decoder else None
    write_golden(folder, examples[:8], golden_files(examples), latents)
    _write_metrics(folder, report, parity, model, precision)
    figures = folder / "figures"
    near = not config.has_posterior and recipe.share_images and test is not None
    if config.has_decoder or near:
        figures.mkdir()
    if config.has_decoder:
        draw_decoded(figures, encoder, examples)
        described = Encoder(folder, config, provider="cpu")  # metrics.json names the recipe now
        if described.views is not None:
            draw_views(figures, described, examples, recipe.augmentation)
    if near and test is not None:
        draw_neighbours(figures, encoder, train, outputs["embedding"], test)
    write_card(folder)
    write_manifest(folder)
    return config


def _has_labels(dataset: ImageDataset) -> bool:
    return dataset.labels is not None or dataset.attributes is not None


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


def _describe(model: TrainedModel, name: str, precision: Precision, pixels: Pixels) -> ModelConfig:
    """Return the record without probes. Tolerances follow the scale of the model's outputs."""
    recipe, record = model.recipe, model.record
    height, width, channels = recipe.input
    outputs = model.outputs(pixels)
    scales = {"embedding": max(1.0, float(outputs["embedding"].std()))}
    if model.has_posterior:
        scales["log_variance"] = max(1.0, float(np.abs(outputs["log_variance"]).max()))
    if model.decoder is not None:
        scales["images"] = 1.0
    # Other processors sum in another order, and GPUs are less precise.
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
        input=InputSpec(
            height=height, width=width, channels=channels, resize=ResizePolicy(jpeg="scaled")
        ),
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
    """Return the likelihood of a decoder that was part of the training objective."""
    spec = model.recipe.likelihood
    return None if spec is None or not model.has_posterior else spec.family


def _write_metrics(
    folder: Path,
    report: EvaluationReport | None,
    parity: Parity,
    model: TrainedModel,
    precision: Precision,
) -> None:
    training = TrainingRecord(
        recipe=model.recipe,
        embeddings=Embeddings.model_validate(model.collapse) if model.collapse else None,
        added_decoder=AddedDecoder(steps=STEPS, batch=BATCH) if model.has_added_decoder else None,
        started_from=model.record.started_from,
        extended_at=model.record.extended_at,
    )
    metrics = {
        "evaluation": None if report is None else report.model_dump(mode="json"),
        "onnx_against_torch": {
            "protocol": (
                "largest absolute difference between the run in torch float32 and these graphs "
                f"(weights stored as {precision}) on ONNX Runtime's CPU provider, on real images "
                "and uniform noise"
            ),
            **parity,
        },
        "training": training.model_dump(mode="json"),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
