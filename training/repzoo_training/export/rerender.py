"""Render the cards of packages again and update their manifests.

    python -m repzoo_training.export.rerender zoo/bundled/*
    python -m repzoo_training.export.rerender --views zoo/bundled/simvae-*

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
from repzoo.runtime.golden import GOLDEN

from repzoo_training.export.card import TrainingRecord, write_card
from repzoo_training.export.pictures import draw_views

__all__ = ["main", "redraw_views"]


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
    arguments = parser.parse_args()
    for folder in arguments.packages:
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
    encoder = Encoder(folder, ModelConfig.read(folder / "config.json"), provider="cpu")
    if encoder.views is None or not encoder.config.has_decoder:
        raise PackageError(f"{folder} has no decoder, or was not trained with SimVAE")
    metrics = json.loads((folder / "metrics.json").read_bytes())
    recipe = TrainingRecord.model_validate(metrics["training"]).recipe
    examples = read_arrays(folder / GOLDEN)["inputs"]
    (folder / "figures").mkdir(exist_ok=True)
    draw_views(folder / "figures", encoder, examples, recipe.augmentation)


if __name__ == "__main__":
    main()
