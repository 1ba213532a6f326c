"""``zoo calibrate``: a package with an uncertainty, made of one without."""

from __future__ import annotations

import itertools
import json
import re
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
from repzoo_training.export.graphs import write_graph
from repzoo_training.uncertainty.benchmark import UncertaintyReport, measure_uncertainty
from repzoo_training.uncertainty.figures import uncertainty_figure
from repzoo_training.uncertainty.fitting import (
    ANOTHER_IMAGE,
    FittedUncertainty,
    fit_uncertainty,
)
from repzoo_training.views.views import ViewSpec

__all__ = ["calibrate_package"]

#: How far a probability may be off on another machine, by provider class.
TOLERANCES = {"cpu": 2e-3, "cuda": 1e-2}
#: The same for an encoder in integers, whose embeddings may be further off.
INT8_TOLERANCES = {"cpu": 2e-2, "cuda": 2e-2}

_SECTION = re.compile(r"## Uncertainty\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_NOT_YET = "This package has no calibrated `uncertainty` yet."
_INSTEAD = "Its `uncertainty` is one."


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
    """Write a copy of a package with ``uncertainty.onnx`` to the folder ``out``.

    Its golden outputs, numbers, card and a picture come with it; all else stays as it is.

    Args:
        package: verified; an uncertainty that it has already is replaced.
        out: the new package's folder, which must not exist; it appears whole or not at all.
        train: the gallery, see `fit_uncertainty`.
        test: what the card's numbers are measured on; without it, or if ``train`` has labels and it
            has none, there are none.
        views: the recipe's own.
        outside: other images, to be told from these on the card.
        seed: of everything that is drawn.
        progress: show bars, on a terminal only.

    Raises:
        PackageError: if ``out`` exists, or the graph is not what the head is in torch.
        InvalidInput: if there is nothing to fit an uncertainty to.
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
            if (package.path / file).exists():  # but for an advisory file that is not there
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
            _add_numbers(folder, report)
        _rewrite_card(folder, config, report)
        _rewrite_golden(folder)
        write_manifest(folder)
        folder.rename(out)
    return config, report


def _write_head(folder: Path, fitted: FittedUncertainty, config: ModelConfig) -> None:
    # A tensor for each: one tensor for two inputs would be one input to the exporter.
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
    """The graph gives what torch gives, on images and on noise."""
    images = train.images[:256]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    pixels = np.concatenate([images, noise])
    outputs = encoder.outputs(pixels)
    inputs: dict[str, NDArray[Any]] = {**outputs, "images": pixels}
    expected = fitted.head(*(torch.from_numpy(inputs[name]) for name in fitted.spec.inputs))
    off = float(np.abs(encoder.uncertainty_of(outputs, pixels) - expected.numpy()).max())
    if not off <= TOLERANCES["cpu"]:
        raise PackageError(f"ONNX and torch differ by {off:.2g} in the uncertainty")


def _add_numbers(folder: Path, report: UncertaintyReport) -> None:
    path = folder / "metrics.json"
    metrics = json.loads(path.read_bytes()) if path.exists() else {}
    metrics["uncertainty"] = report.model_dump(mode="json")
    path.write_text(json.dumps(metrics, indent=2) + "\n")
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "uncertainty.png").write_bytes(uncertainty_figure(report))


def _rewrite_golden(folder: Path) -> None:
    """The same inputs, and what this package gives for them."""
    arrays = read_arrays(folder / GOLDEN)
    names = (f"files.{number}" for number in itertools.count())
    files = [arrays[name].tobytes() for name in itertools.takewhile(arrays.__contains__, names)]
    write_golden(folder, arrays["inputs"], files, arrays.get("latents"))


def _rewrite_card(folder: Path, config: ModelConfig, report: UncertaintyReport | None) -> None:
    path = folder / "README.md"
    card = path.read_text() if path.exists() else f"# {config.name}\n"
    card = _SECTION.sub("", card).replace(_NOT_YET, _INSTEAD)
    before, limits, after = card.partition("## What it is not for\n")
    path.write_text(f"{before.rstrip()}\n\n{_section(config, report)}\n{limits}{after}")


def _section(config: ModelConfig, report: UncertaintyReport | None) -> str:
    spec = config.uncertainty
    assert spec is not None
    text = (
        f"## Uncertainty\n\n`uncertainty` is the probability that {spec.probability_of}. Fitted on "
        f"{spec.fitted_on}; on no other images and on none of the corruptions below.\n"
    )
    if report is None:
        suited = "" if spec.probability_of.endswith(ANOTHER_IMAGE) else " with labels"
        return text + f"There were no test images{suited}: nothing was measured.\n"
    return (
        f"{text}\n![risk over coverage, calibration, corruptions](figures/uncertainty.png)\n\n"
        f"```text\n{report.table()}\n```\n"
    )
