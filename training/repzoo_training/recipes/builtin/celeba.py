"""CelebA faces at 64×64 pixels, D = 64; 128 and 256 in the recipes for hours.

Paper:     Bizeul, Schölkopf, Allen 2024 (arXiv 2402.01399), Table 1, gender: SimVAE k-NN 93.2, MLP
           probe 95.6; VAE 86.9 and 89.0; SimCLR 91.6 and 93.7.
Command:   zoo train simvae-celeba-conv --data celeba/ --out runs/simvae-celeba-conv
Time:      ``-conv``, small convolutions: on one CPU core, ``simvae-celeba-conv`` takes 92 minutes
           with bfloat16, and ``vae-celeba-conv`` 102 without. The others, a ResNet-18 pair, need a
           GPU.
Accuracy:  k-NN and MLP probe of gender, from 8,000 training images: ``simvae-celeba-conv`` 80.4 and
           87.2 after 3.8 M views, ``vae-celeba-conv`` 80.0 and 86.7 after 3 M.

           ``simclr-celeba-conv`` reaches k-NN 89.1 (cosine) and a linear probe of 89.7 after its
           8.9 M views, in 119 minutes. The ResNet recipes have not been trained yet.

CelebA is for non-commercial research, and so are these weights. No face is included in a package.
``simvae-celeba-conv`` uses the content prior N(0, I). With half the width, D = 64, two mild views
per image and log σ_x² = −4.6, it reached 75.2 and 82.4 after 3 M views. With the same network and
likelihood, and whole images only, ``vae-celeba-conv`` reached 77.0 and 81.3.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import LikelihoodSpec
from repzoo_training.recipes.builtin._conv import NOTE, convolutional, for_hours
from repzoo_training.recipes.builtin._methods import discriminative
from repzoo_training.recipes.builtin.cifar10 import generative as cifar10
from repzoo_training.views.views import ViewSpec

__all__ = ["RECIPES"]

NOTES = (
    "CelebA's images, and therefore these weights, may be used for non-commercial research only.",
    "The splits do not separate people: images of one person may be in both train and test split.",
)

generative = [
    recipe.model_copy(
        update={
            "name": recipe.name.replace("cifar10", "celeba"),
            "summary": recipe.summary.replace("CIFAR-10", "CelebA faces"),
            "network": NetworkSpec(kind="resnet18", widths=(32, 64, 128, 128)),
            "input": (64, 64, 3),
            "licence": "other",
            "share_images": False,
            "notes": NOTES,
        }
    )
    for recipe in cifar10
]

with_prior = generative[0].model_copy(update={"options": {"scatter": 0.15, "prior": "normal"}})

#: Views for hours of training, in which an encoder learns to be invariant to them.
STRONG = ViewSpec(
    scale=(0.3, 1.0), ratio=(0.75, 1.33), horizontal_flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1)
)

#: The same methods with small convolutions, for a CPU.
small = [
    convolutional(
        recipe,
        NetworkSpec(kind="conv", widths=(32, 64, 128, 256), patch=4),
        augmentation=ViewSpec(
            scale=(0.8, 1.0), ratio=(0.9, 1.1), horizontal_flip=0.5, jitter=(0.2, 0.2, 0.2, 0.05)
        ),
        views_per_image=2,
        views=800_000,
    )
    for recipe in (with_prior, *generative[1:])
]

#: SimVAE for hours: twice the width, D = 128, J = 8 strong views, and a likelihood that asks less
#: of single pixels.
small_for_hours = small[0].model_copy(
    update={
        "network": NetworkSpec(kind="conv", widths=(64, 128, 256, 512), patch=4),
        "latent_dim": 128,
        "likelihood": LikelihoodSpec(kind="gaussian", log_variance=-2.3),
        "augmentation": STRONG,
        "views_per_image": 8,
        "images_per_step": 32,
        "views": 3_800_000,
        "notes": (NOTE, *NOTES),
    }
)

#: A VAE for hours: as wide as SimVAE in its first stages, with its D and its likelihood. Mild crops
#: and mirroring keep it from learning 8,000 faces by heart.
vae_for_hours = small[1].model_copy(
    update={
        "network": NetworkSpec(kind="conv", widths=(64, 128, 192, 256), patch=4),
        "latent_dim": 128,
        "likelihood": LikelihoodSpec(kind="gaussian", log_variance=-2.3),
        "augmentation": ViewSpec(scale=(0.8, 1.0), ratio=(0.9, 1.1), horizontal_flip=0.5),
        "views": 3_000_000,
        "notes": (NOTE, *NOTES),
    }
)

RECIPES = [
    *generative,
    *discriminative(generative[0], "celeba", "CelebA faces", images_per_step=256),
    small_for_hours,
    vae_for_hours,
    *small[2:],
    *(
        for_hours(
            recipe,
            patch=4,
            augmentation=STRONG,
            views=8_886_272,
        )
        if recipe.method == "simclr"
        else recipe
        for recipe in discriminative(
            small[0],
            "celeba-conv",
            "CelebA faces; small convolutions, for a CPU",
            augmentation=ViewSpec(
                scale=(0.4, 1.0),
                ratio=(0.75, 1.3),
                horizontal_flip=0.5,
                jitter=(0.4, 0.4, 0.4, 0.1),
            ),
        )
    ),
]
