"""Add a calibrated uncertainty to a model package."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import PackageError
from repzoo.files import temporary_folder
from repzoo.packages.arrays import read_arrays
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Package, write_manifest
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.golden import GOLDEN, write_golden
from torch import Tensor

from repzoo_training.data import ImageDataset
from repzoo_training.export.card import write_card
from repzoo_training.export.graphs import write_graph
from repzoo_training.uncertainty.benchmark import UncertaintyReport, measure_uncertainty
from repzoo_training.uncertainty.figures import uncertainty_figure
from repzoo_training.uncertainty.fitting import FittedUncertainty, fit_uncertainty
from repzoo_training.views.views import ViewSpec

__all__ = ["calibrate_package"]

#: Largest difference of a probability between machines, by provider class.
TOLERANCES = {"cpu": 2e-3, "cuda": 1e-2}
#: The same for an int8 encoder, whose embeddings differ more.
INT8_TOLERANCES = {"cpu": 2e-2, "cuda": 2e-2}


def calibrate_package(
    package: Package,
    out: str | Path,
    train: ImageDataset,
    test: ImageDataset | None,
    views: ViewSpec,
    *,
    outside: Mapping[str, ImageDataset] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[ModelConfig, UncertaintyReport | None]:
    """Write a copy of a package with ``uncertainty.onnx``.

    Golden outputs, numbers and a picture are added, and the card is rendered again. All other files
    are copied unchanged.

    Args:
        package: a verified package. An existing uncertainty is replaced.
        out: folder of the new package, which must not exist. It appears complete or not at all.
        train: the gallery, see `fit_uncertainty`.
        test: images to measure on. Nothing is measured without them, or if ``train`` has labels
            and they have none.
        views: the recipe's views.
        outside: out-of-distribution images for the card, by name.
        seed: decides everything random.
        progress: show progress bars on a terminal.

    Raises:
        PackageError: If ``out`` exists, or the graph differs from the head in torch.
        InvalidInput: If there is nothing to fit an uncertainty to.
    """
    out = Path(out)
    if out.exists():
        raise PackageError(f"{out} exists already: remove it or choose another --out")
    encoder = Encoder(package.path, package.config, revision=package.revision)
    fitted = fit_uncertainty(encoder, train, views, seed=seed, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out.parent, f".{out.name}.") as folder:
        for file in package.manifest.files:
            (folder / file).parent.mkdir(exist_ok=True)
            if (package.path / file).exists():  # an advisory file may be missing
                shutil.copyfile(package.path / file, folder / file)
        allowed = INT8_TOLERANCES if package.config.precision == "int8" else TOLERANCES
        tolerances = {**package.config.tolerances, "uncertainty": allowed}
        config = ModelConfig.model_validate(
            {
                **package.config.model_dump(),
                "uncertainty": fitted.spec.model_dump(),
                "tolerances": tolerances,
            }
        )
        config.write(folder / "config.json")
        _write_head(folder, fitted, config)
        encoder = Encoder(folder, config)
        _check_head(encoder, fitted, train)
        report = None
        if test is not None and (train.labels is None or test.labels is not None):
            report = measure_uncertainty(
                encoder, train, test, outside, views=views, seed=seed, progress=progress
            )
        _write_numbers(folder, report)
        write_card(folder)
        _rewrite_golden(folder)
        write_manifest(folder)
        folder.rename(out)
    return config, report


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
    )


def _check_head(encoder: Encoder, fitted: FittedUncertainty, train: ImageDataset) -> None:
    """Check that the graph gives the same as torch on images and on noise."""
    images = train.images[:256]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    pixels = np.concatenate([images, noise])
    outputs = encoder.outputs(pixels)
    inputs: dict[str, NDArray[Any]] = {**outputs, "images": pixels}
    expected = fitted.head(*(torch.from_numpy(inputs[name]) for name in fitted.spec.inputs))
    off = float(np.abs(encoder.uncertainty_of(outputs, pixels) - expected.numpy()).max())
    if not off <= TOLERANCES["cpu"]:
        raise PackageError(f"ONNX and torch differ by {off:.2g} in the uncertainty")


def _write_numbers(folder: Path, report: UncertaintyReport | None) -> None:
    """Replace the numbers and the picture of an earlier uncertainty."""
    path, figure = folder / "metrics.json", folder / "figures" / "uncertainty.png"
    metrics = json.loads(path.read_bytes()) if path.exists() else {}
    metrics.pop("uncertainty", None)
    figure.unlink(missing_ok=True)
    if report is not None:
        metrics["uncertainty"] = report.model_dump(mode="json")
        figure.parent.mkdir(exist_ok=True)
        figure.write_bytes(uncertainty_figure(report))
    path.write_text(json.dumps(metrics, indent=2) + "\n")


def _rewrite_golden(folder: Path) -> None:
    """Store the outputs of this package for the same golden inputs."""
    arrays = read_arrays(folder / GOLDEN)
    names = (f"files.{number}" for number in itertools.count())
    files = [arrays[name].tobytes() for name in itertools.takewhile(arrays.__contains__, names)]
    write_golden(folder, arrays["inputs"], files, arrays.get("latents"))
