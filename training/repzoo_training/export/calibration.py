"""Add to a package: a content posterior, a calibrated uncertainty, measurements, a new card."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from repzoo.errors import PackageError
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Package
from repzoo.runtime.encoder import Encoder
from torch import Tensor

from repzoo_training.content.benchmark import has_task, measure_content
from repzoo_training.content.figures import content_figure
from repzoo_training.content.fitting import FittedContent, fit_content
from repzoo_training.content.report import ContentReport
from repzoo_training.content.steps import steps_figure
from repzoo_training.data import ImageDataset
from repzoo_training.degradations import FIT, Degradation
from repzoo_training.export.derived import derived_package, renamed
from repzoo_training.export.graphs import write_graph
from repzoo_training.uncertainty.benchmark import UncertaintyReport, measure_uncertainty
from repzoo_training.uncertainty.figures import uncertainty_figure
from repzoo_training.uncertainty.fitting import FittedUncertainty, fit_uncertainty
from repzoo_training.views.views import ViewSpec

__all__ = ["Calibrated", "calibrate_package"]

#: Largest difference of a probability between machines, by provider class.
TOLERANCES = {"cpu": 2e-3, "cuda": 1e-2}
#: The same for an int8 encoder, whose embeddings differ more.
INT8_TOLERANCES = {"cpu": 2e-2, "cuda": 2e-2}
#: Largest difference of a probability between float32 and halved weights.
HALVED = 1e-2
#: Buffers of the heads that stay float32. The spread of a dimension that hardly varies, such as a
#: unit that is always zero, would be zero in float16.
STANDARDISATION = ("center", "spread")


class Calibrated(NamedTuple):
    """What was written, and the numbers that were measured."""

    config: ModelConfig
    uncertainty: UncertaintyReport | None
    content: ContentReport | None


def calibrate_package(
    package: Package,
    out: str | Path,
    train: ImageDataset,
    test: ImageDataset | None,
    views: ViewSpec,
    *,
    outside: Mapping[str, ImageDataset] | None = None,
    degrade: Mapping[str, Degradation] | None = None,
    copies: int | None = None,
    name: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Calibrated:
    """Write a copy of a package with ``uncertainty.onnx`` and, if asked for, ``content.onnx``.

    Golden outputs, numbers and pictures are added, and the card is rendered again. All other files
    are copied unchanged.

    Args:
        package: a verified package. An existing uncertainty is replaced.
        out: folder of the new package, which must not exist. It appears complete or not at all.
        train: the gallery, see `fit_uncertainty`.
        test: images to measure on. Nothing is measured without them, or if ``train`` has labels
            and they have none.
        views: the recipe's views.
        outside: out-of-distribution images for the card, by name.
        degrade: the degradations that a content posterior is fitted to, see `fit_content`. Without
            them, a content posterior that the package has stays as it is.
        copies: the number of degraded copies that it is fitted to, see `fit_content`.
        name: the name of the new package; by default that of the old one.
        seed: decides everything random.
        progress: show progress bars on a terminal, and a line for each part of the work elsewhere.

    Raises:
        PackageError: If ``out`` exists, the name is not valid, or the graph differs from the head
            in torch.
        InvalidInput: If there is nothing to fit an uncertainty to.
    """
    config = renamed(package.config, name)

    def begin(part: str) -> None:
        if progress and not sys.stderr.isatty():
            print(f"{config.name}: {part}", file=sys.stderr, flush=True)

    with derived_package(package, out) as folder:
        content = None
        if degrade is not None:
            begin("fitting the content posterior")
            encoder = Encoder(folder, config)
            content = fit_content(
                encoder, train, views, kinds=degrade, copies=copies, seed=seed, progress=progress
            )
            _write_content(folder, content, config)
            # The old uncertainty does not know this content posterior.
            config = _changed(
                config,
                _content_tolerances(content, config),
                content=content.spec,
                uncertainty=None,
            )
        begin("fitting the uncertainty")
        encoder = Encoder(folder, config)
        fitted = fit_uncertainty(
            encoder, train, views, kinds=degrade or FIT, seed=seed, progress=progress
        )
        _write_head(folder, fitted, config)
        allowed = INT8_TOLERANCES if config.precision == "int8" else TOLERANCES
        config = _changed(config, {"uncertainty": allowed}, uncertainty=fitted.spec)
        config.write(folder / "config.json")
        encoder = Encoder(folder, config)
        _check_head(encoder, fitted, train)
        report = content_report = None
        if test is not None and (train.labels is None or test.labels is not None):
            begin("measuring the uncertainty")
            report = measure_uncertainty(
                encoder, train, test, outside, views=views, seed=seed, progress=progress
            )
        if content is not None:
            _check_content(encoder, content, train)
            if test is not None and has_task(train, test):
                begin("measuring the content posterior")
                former = Encoder(package.path, package.config)
                content_report = measure_content(
                    encoder, train, test, views, former=former, seed=seed, progress=progress
                )
        drawn = None if report is None else uncertainty_figure(report)
        _write_numbers(folder, "uncertainty", report, drawn)
        if content is not None:
            drawn = None if content_report is None else content_figure(content_report)
            _write_numbers(folder, "content", content_report, drawn)
            _draw_steps(folder, encoder, train, None if content_report is None else test)
    return Calibrated(config, report, content_report)


def _changed(
    config: ModelConfig, tolerances: dict[str, dict[str, float]], **specs: BaseModel | None
) -> ModelConfig:
    """Return a configuration with other heads, and with tolerances for their outputs."""
    changed = {name: spec and spec.model_dump() for name, spec in specs.items()}
    changed["tolerances"] = {**config.tolerances, **tolerances}
    return ModelConfig.model_validate({**config.model_dump(), **changed})


def _write_head(folder: Path, fitted: FittedUncertainty, config: ModelConfig) -> None:
    # One tensor per input: the exporter would merge inputs that share a tensor.
    dim = config.latent_dim
    examples: dict[str, Tensor] = {name: torch.zeros(2, dim) for name in fitted.spec.inputs}
    examples["images"] = torch.zeros(2, *config.input.shape, dtype=torch.uint8)
    write_graph(
        fitted.head,
        folder / "uncertainty.onnx",
        examples,
        output_names=["uncertainty"],
        half=True,
        keep_float32=STANDARDISATION,
    )


def _check_head(encoder: Encoder, fitted: FittedUncertainty, train: ImageDataset) -> None:
    """Check that the graph, with halved weights, gives torch's results on images and on noise."""
    images = train.images[:256]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    pixels = np.concatenate([images, noise])
    outputs = encoder.outputs(pixels, content=True)
    inputs: dict[str, NDArray[Any]] = {**outputs, "images": pixels}
    expected = fitted.head(**{name: torch.from_numpy(inputs[name]) for name in fitted.spec.inputs})
    off = float(np.abs(encoder.uncertainty_of(outputs, pixels) - expected.numpy()).max())
    if not off <= HALVED:
        raise PackageError(f"ONNX and torch differ by {off:.2g} in the uncertainty")


def _write_content(folder: Path, content: FittedContent, config: ModelConfig) -> None:
    examples: dict[str, Tensor] = {
        name: torch.zeros(2, *config.input.shape, dtype=torch.uint8)
        if name == "images"
        else torch.zeros(2, config.latent_dim)
        for name in content.spec.inputs
    }
    write_graph(
        content.head,
        folder / "content.onnx",
        examples,
        output_names=["content_mean", "content_variance"],
        half=True,
        keep_float32=STANDARDISATION,
    )


def _content_tolerances(content: FittedContent, config: ModelConfig) -> dict[str, dict[str, float]]:
    """Return tolerances between machines, relative to the scale of embeddings and variances."""
    spread = float(content.head.spread[: config.latent_dim].max())
    share = (
        {"cpu": 2e-2, "cuda": 5e-2} if config.precision == "int8" else {"cpu": 2e-3, "cuda": 1e-2}
    )
    return {
        "content_mean": {kind: value * spread for kind, value in share.items()},
        "content_variance": {kind: 5 * value * spread**2 for kind, value in share.items()},
    }


def _check_content(encoder: Encoder, content: FittedContent, train: ImageDataset) -> None:
    """Check that the graph, whose weights are halved, gives nearly the same results as torch."""
    pixels = train.images[:256]
    outputs = encoder.outputs(pixels, content=True)
    inputs: dict[str, NDArray[Any]] = {**outputs, "images": pixels}
    mean, _ = content.head(**{name: torch.from_numpy(inputs[name]) for name in content.spec.inputs})
    spread = content.head.spread[: mean.shape[1]].numpy()
    off = float(np.abs((outputs["content_mean"] - mean.numpy()) / spread).max())
    if not off <= 0.05:
        raise PackageError(f"ONNX and torch differ by {off:.2g} standard deviations in the content")


def _write_numbers(folder: Path, name: str, report: BaseModel | None, figure: bytes | None) -> None:
    """Replace the numbers and the picture of an earlier fit of ``name``."""
    path, picture = folder / "metrics.json", folder / "figures" / f"{name}.png"
    metrics = json.loads(path.read_bytes()) if path.exists() else {}
    metrics.pop(name, None)
    picture.unlink(missing_ok=True)
    if report is not None and figure is not None:
        metrics[name] = report.model_dump(mode="json")
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(figure)
    path.write_text(json.dumps(metrics, indent=2) + "\n")


def _draw_steps(
    folder: Path, encoder: Encoder, train: ImageDataset, test: ImageDataset | None
) -> None:
    """Draw one image step by step, if it may be shown and has a label."""
    picture = folder / "figures" / "steps.png"
    picture.unlink(missing_ok=True)
    path = folder / "metrics.json"
    training = json.loads(path.read_bytes()).get("training") if path.exists() else None
    if test is not None and training and training["recipe"]["share_images"]:
        picture.write_bytes(steps_figure(encoder, train, test))
