"""A folder of your own images, at 32×32 to 128×128: SimVAE, SimCLR, VICReg and DINO.

Command:   zoo train simvae-images-32 --data photos/ --out runs/photos --budget 5m
           zoo train simclr-images-64-conv --data photos/ --out runs/photos --budget 2h
           zoo train simclr-images-128 --data photos/ --out runs/photos
Time:      ``simvae-images-32``, an MLP pair: useful features in minutes on a CPU.
           ``METHOD-images-SIZE-conv``, small convolutions: hours on a CPU.
           ``METHOD-images-SIZE``, a ResNet-18: a GPU.
Accuracy:  depends on the images. None of these has been trained to the end; the ``-conv`` recipes
           have the networks and settings of ``simvae-cifar10-conv`` and ``simclr-cifar10-conv``.

Images are resized and cropped to the size in the name of the recipe. An exported package contains
none of the images: its examples are samples of the model, or noise.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import METHODS, LikelihoodSpec
from repzoo_training.recipes.builtin._conv import for_hours
from repzoo_training.recipes.builtin.cifar10 import simvae as simvae_cifar10
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.views.views import ViewSpec

__all__ = ["RECIPES"]

SIZES = (32, 64, 96, 128)

base = simvae_cifar10.model_copy(
    update={
        "likelihood": LikelihoodSpec(kind="optimal-gaussian"),
        "licence": "other",
        "share_images": False,
    }
)

small = base.model_copy(
    update={
        "name": "simvae-images-32",
        "summary": "SimVAE on your own images at 32×32; an MLP, for a CPU",
        "network": NetworkSpec(kind="mlp", widths=(1000, 500, 500)),
        "latent_dim": 32,
        "images_per_step": 32,
        "views": 2_000_000,
    }
)

#: The views of the contrastive and distillation methods.
strong = ViewSpec(
    scale=(0.2, 1.0),
    ratio=(0.75, 1.33),
    horizontal_flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    greyscale=0.2,
)

#: SimVAE's views for convolutions, as in ``simvae-cifar10-conv``.
mild = ViewSpec(
    scale=(0.8, 1.0), ratio=(0.9, 1.1), horizontal_flip=0.5, jitter=(0.2, 0.2, 0.2, 0.05)
)


def simvae(size: int) -> Recipe:
    """Return SimVAE with a ResNet-18 pair."""
    return base.model_copy(
        update={
            "name": f"simvae-images-{size}",
            "summary": f"SimVAE on your own images at {size}×{size}; a ResNet-18, for a GPU",
            "network": NetworkSpec(
                kind="resnet18",
                widths=(32, 64, 128, 128),
                stem="small" if size <= 64 else "imagenet",
            ),
            "input": (size, size, 3),
            "images_per_step": 32,
            "views": 50_000_000,
        }
    )


def simvae_conv(size: int) -> Recipe:
    """Return SimVAE with small convolutions."""
    return base.model_copy(
        update={
            "name": f"simvae-images-{size}-conv",
            "summary": f"SimVAE on your own images at {size}×{size}; convolutions, for a CPU",
            "options": {"scatter": 0.15, "prior": "normal"},
            "network": NetworkSpec(kind="conv", widths=(32, 64, 128, 256), patch=size // 16),
            "input": (size, size, 3),
            "augmentation": mild,
            "views_per_image": 2,
            "images_per_step": 64,
            "views": 5_000_000,
        }
    )


def several(method: str, size: int) -> Recipe:
    """Return a discriminative method with a ResNet-18."""
    return base.model_copy(
        update={
            "name": f"{method}-images-{size}",
            "summary": f"{METHODS[method].title} on your own images at {size}×{size}; a ResNet-18, "
            "for a GPU",
            "method": method,
            "options": {},
            "likelihood": None,
            "network": NetworkSpec(
                kind="resnet18",
                widths=(64, 128, 256, 512),
                stem="small" if size <= 64 else "imagenet",
                head="none",
            ),
            "latent_dim": 512,
            "input": (size, size, 3),
            "augmentation": strong,
            "views_per_image": 2,
            "images_per_step": 256,
            "views": 20_000_000,
            "paper": METHODS[method].paper,
        }
    )


def several_conv(method: str, size: int) -> Recipe:
    """Return a discriminative method with small convolutions."""
    large = several(method, size)
    recipe = for_hours(large, patch=size // 16, augmentation=strong, views=10_000_000)
    return recipe.model_copy(
        update={
            "name": f"{large.name}-conv",
            "summary": large.summary.replace("a ResNet-18, for a GPU", "convolutions, for a CPU"),
            "options": recipe.options if method == "simclr" else {},
        }
    )


METHODS_WITHOUT_DECODER = ("simclr", "vicreg", "dino")

RECIPES = [
    small,
    *(simvae(size) for size in SIZES if size != 32),
    *(simvae_conv(size) for size in SIZES),
    *(several(method, size) for method in METHODS_WITHOUT_DECODER for size in SIZES),
    *(several_conv(method, size) for method in METHODS_WITHOUT_DECODER for size in SIZES),
]
