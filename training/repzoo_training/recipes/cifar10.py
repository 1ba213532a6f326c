"""CIFAR-10 with a ResNet-18 pair, z = 64.

Paper: Bizeul, Schölkopf, Allen 2024 (arXiv 2402.01399), Table 1: SimVAE k-NN 47.1, MLP probe 51.8;
VAE 25.6 and 30.3.

    zoo train simvae-cifar10 --data cifar10 --out runs/simvae-cifar10

The narrow layout of the authors costs about 1 GFLOP a view: this is work for a GPU. Not yet
trained with this code; nothing is known of what it reaches.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import LikelihoodSpec
from repzoo_training.recipe import Recipe
from repzoo_training.views import ViewSpec

__all__ = ["RECIPES"]

simvae = Recipe(
    name="simvae-cifar10",
    summary="SimVAE on CIFAR-10, invariant to crops, mirroring and colour",
    method="simvae",
    options={"scatter": 0.15, "prior": "uniform"},
    likelihood=LikelihoodSpec(kind="gaussian", log_variance=-4.6),
    network=NetworkSpec(kind="resnet18", widths=(32, 64, 128)),
    latent_dim=64,
    input=(32, 32, 3),
    augmentation=ViewSpec(
        scale=(0.6, 1.0),
        ratio=(0.75, 1.3),
        horizontal_flip=0.5,
        jitter=(0.8, 0.8, 0.8, 0.2),
    ),
    views_per_image=10,
    images_per_step=64,
    views=100_000_000,
    learning_rate=1e-3,
    paper="arXiv:2402.01399",
    licence="apache-2.0",
    share_images=True,
)

RECIPES = [simvae]
