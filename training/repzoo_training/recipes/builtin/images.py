"""SimVAE on a folder of your own images, with or without class subfolders.

Command:   zoo train simvae-images-32 --data photos/ --out runs/photos --budget 5m
Time:      ``simvae-images-32``, an MLP pair: useful features in minutes on a CPU.
           ``simvae-images-64``, a ResNet-18 pair: a GPU.
Accuracy:  depends on the images.

Images are resized and cropped to the size in the name of the recipe. An exported package contains
none of the images: its examples are samples of the model.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import LikelihoodSpec
from repzoo_training.recipes.builtin.cifar10 import simvae as simvae_cifar10

__all__ = ["RECIPES"]

small = simvae_cifar10.model_copy(
    update={
        "name": "simvae-images-32",
        "summary": "SimVAE on your own images at 32×32; an MLP, for a CPU",
        "likelihood": LikelihoodSpec(kind="optimal-gaussian"),
        "network": NetworkSpec(kind="mlp", widths=(1000, 500, 500)),
        "latent_dim": 32,
        "images_per_step": 32,
        "views": 2_000_000,
        "licence": "other",
        "share_images": False,
    }
)

large = small.model_copy(
    update={
        "name": "simvae-images-64",
        "summary": "SimVAE on your own images at 64×64; a ResNet-18, for a GPU",
        "network": NetworkSpec(kind="resnet18", widths=(32, 64, 128, 128)),
        "input": (64, 64, 3),
        "latent_dim": 64,
        "views": 50_000_000,
    }
)

RECIPES = [small, large]
