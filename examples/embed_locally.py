"""Embed images in this process and save the arrays. Needs no server and no torch.

python examples/embed_locally.py digits/*.png --out digits.npz
"""

from __future__ import annotations

import argparse

import numpy as np
import repzoo


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed images in this process.")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--model", default="simvae-mnist")
    parser.add_argument("--out", default="embeddings.npz")
    arguments = parser.parse_args()

    encoder = repzoo.load(arguments.model)
    mean, variance, uncertainty = encoder.posterior(arguments.images)
    np.savez(arguments.out, mean=mean, variance=variance, uncertainty=uncertainty)
    print(f"{arguments.out}: {len(mean)} posteriors of {mean.shape[1]} dimensions")


if __name__ == "__main__":
    main()
