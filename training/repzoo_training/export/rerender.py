"""Render the cards of packages again and update their manifests.

    python -m repzoo_training.export.rerender zoo/bundled/*
    python -m repzoo_training.export.rerender --views zoo/bundled/simvae-*
    python -m repzoo_training.export.rerender --prior cifar10 zoo/bundled/vae-cifar10

The revision of a package changes if its card does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from repzoo.errors import PackageError
from repzoo.packages.arrays import read_arrays
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import write_manifest
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.golden import GOLDEN, write_golden

from repzoo_training.data import load
from repzoo_training.evaluation import evaluate_dataset
from repzoo_training.evaluation.report import Group
from repzoo_training.export.card import TrainingRecord, write_card
from repzoo_training.export.inputs import golden_files, own_images
from repzoo_training.export.package import EXAMPLES
from repzoo_training.export.pictures import draw_decoded, draw_samples, draw_views
from repzoo_training.prior import MOST_IMAGES, fit_prior, write_prior
from repzoo_training.recipes.recipe import Recipe

__all__ = ["main", "redraw_views", "refit_prior"]

_SAMPLES = "cnn_fid_generated"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="+", type=Path, help="folders of packages")
    parser.add_argument(
        "--views",
        action="store_true",
        help="also draw figures/views of these packages, which SimVAE must have trained",
    )
    parser.add_argument(
        "--prior",
        metavar="SOURCE",
        help="also fit the prior again to this training data, and measure its samples",
    )
    arguments = parser.parse_args()
    for folder in arguments.packages:
        if arguments.prior:
            refit_prior(folder, arguments.prior)
        if arguments.views:
            redraw_views(folder)
        write_card(folder)
        print(f"{folder}: {write_manifest(folder).revision[:12]}")


def redraw_views(folder: Path) -> None:
    """Draw new views of the golden inputs of a package, as its export does.

    Where images may not be shared, golden inputs are the model's own samples.

    Raises:
        PackageError: If the package has no decoder, or was not trained with SimVAE.
    """
    encoder = _encoder(folder)
    if encoder.views is None or not encoder.config.has_decoder:
        raise PackageError(f"{folder} has no decoder, or was not trained with SimVAE")
    examples = read_arrays(folder / GOLDEN)["inputs"]
    (folder / "figures").mkdir(exist_ok=True)
    draw_views(folder / "figures", encoder, examples, _recipe(folder).augmentation)


def refit_prior(folder: Path, source: str, *, progress: bool = True) -> None:
    """Fit the prior of a package again, as its export does, and replace what depends on it.

    These are the picture of samples, the Fréchet distance of samples if the package states one and,
    if images may not be shared, the golden inputs and all pictures of decoded images.

    Args:
        folder: the package.
        source: its training data, see `repzoo_training.data.load`.
        progress: show progress bars on a terminal.

    Raises:
        PackageError: If the package has no decoder, or was trained on other images.
    """
    encoder = _encoder(folder)
    config = encoder.config
    if not config.has_decoder:
        raise PackageError(f"{folder} has no decoder")
    train = load(source, "train", size=config.input, progress=progress)
    if train.sha256 != config.facts.dataset_sha256:
        raise PackageError(f"{folder} was not trained on the images of {source}")
    outputs = encoder.outputs(train.images[:MOST_IMAGES])
    write_prior(folder / "prior.npz", fit_prior(outputs, config.facts.seed))
    encoder = _encoder(folder)
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    if _recipe(folder).share_images:
        draw_samples(figures, encoder)
    else:
        examples = own_images(encoder, EXAMPLES)
        latents = encoder.generate(8, seed=0).latents
        write_golden(folder, examples[:8], golden_files(examples), latents)
        draw_decoded(figures, encoder, examples)
    path = folder / "metrics.json"
    metrics = json.loads(path.read_bytes())
    measures = (metrics.get("evaluation") or {}).get("measures", [])
    if any(measure["name"] == _SAMPLES for measure in measures):
        test = load(source, "test", size=config.input, progress=progress)
        groups: tuple[Group, ...] = ("fid",)
        report = evaluate_dataset(encoder, train, test, measures=groups, progress=progress).report
        (found,) = (each for each in report.measures if each.name == _SAMPLES)
        metrics["evaluation"]["measures"] = [
            found.model_dump(mode="json") if each["name"] == _SAMPLES else each for each in measures
        ]
        path.write_text(json.dumps(metrics, indent=2) + "\n")


def _encoder(folder: Path) -> Encoder:
    return Encoder(folder, ModelConfig.read(folder / "config.json"), provider="cpu")


def _recipe(folder: Path) -> Recipe:
    metrics = json.loads((folder / "metrics.json").read_bytes())
    return TrainingRecord.model_validate(metrics["training"]).recipe


if __name__ == "__main__":
    main()
