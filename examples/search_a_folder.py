"""Index a folder of images, and search it with an image of which the model may be unsure.

python examples/search_a_folder.py digits/ digits/0015.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import repzoo
from repzoo_client import PosteriorIndex


def main() -> None:
    parser = argparse.ArgumentParser(description="Search a folder of images.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("query")
    parser.add_argument("--model", default="simvae-mnist")
    parser.add_argument("--abstain", type=float, default=0.5, help="highest uncertainty to answer")
    arguments = parser.parse_args()

    encoder = repzoo.load(arguments.model)
    gallery = [str(path) for path in sorted(arguments.folder.glob("*.png"))]
    dim = encoder.config.latent_dim
    with (
        tempfile.TemporaryDirectory() as folder,
        PosteriorIndex.create(f"{folder}/index", model=arguments.model, dim=dim) as index,
    ):
        index.add(gallery, *encoder.posterior(gallery))
        (answer,) = index.search(
            *encoder.posterior(arguments.query), k=5, metric="trusted", abstain=arguments.abstain
        )

    print(f"probability that the nearest image is a right one: {answer.probability:.3f}")
    if answer.abstained:
        print("the query is too uncertain to answer")
    for hit in answer.hits:
        print(f"{hit.id}  distance {hit.distance:.2f}  uncertainty {hit.uncertainty:.3f}")


if __name__ == "__main__":
    main()
