"""Train SimVAE on a folder of images, export a package, and embed with it.

python examples/train_on_a_folder.py photos/ --out runs/my-photos --seconds 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

import repzoo
from repzoo_training.data import load
from repzoo_training.export import export_run
from repzoo_training.loop.trainer import train
from repzoo_training.recipes.registry import find_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description="Train SimVAE on a folder of images.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/my-photos"))
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()

    recipe = find_recipe("simvae-images-32")
    images = load(arguments.folder, size=recipe.input)
    run = train(recipe, images, arguments.out, budget_seconds=arguments.seconds)

    package = arguments.out.with_name(f"{arguments.out.name}-package")
    export_run(run.path, package, images, None, name="my-photos")
    encoder = repzoo.load(package)
    paths = sorted(arguments.folder.iterdir())[:10]
    print(f"{encoder}: {encoder.embed(paths).shape}")


if __name__ == "__main__":
    main()
