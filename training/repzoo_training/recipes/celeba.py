"""CelebA faces at 64×64 with a ResNet-18 pair, z = 64.

Paper: Bizeul, Schölkopf, Allen 2024 (arXiv 2402.01399), Table 1, gender: SimVAE k-NN 93.2, MLP
probe 95.6; VAE 86.9 and 89.0.

    zoo train simvae-celeba --data celeba/ --out runs/simvae-celeba

CelebA is for non-commercial research, and so are these weights; no face of it goes into a package.
Work for a GPU. Not yet trained with this code; nothing is known of what it reaches.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.recipes.cifar10 import simvae as simvae_cifar10

__all__ = ["RECIPES"]

simvae = simvae_cifar10.model_copy(
    update={
        "name": "simvae-celeba",
        "summary": "SimVAE on CelebA faces, for non-commercial research",
        "network": NetworkSpec(kind="resnet18", widths=(32, 64, 128, 128)),
        "input": (64, 64, 3),
        "licence": "other",
        "share_images": False,
    }
)

RECIPES = [simvae]
