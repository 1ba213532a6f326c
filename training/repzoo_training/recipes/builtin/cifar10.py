"""CIFAR-10: a ResNet-18 for a GPU, and ``-conv`` and ``-mlp`` pairs for a CPU.

Paper:     Bizeul, Schölkopf, Allen 2024 (arXiv 2402.01399), Table 1: SimVAE k-NN 47.1, MLP probe
           51.8; VAE 25.6 and 30.3.
Command:   zoo train simvae-cifar10-conv --data cifar10 --out runs/simvae-cifar10-conv
           zoo train simclr-cifar10-mlp --data cifar10 --out runs/simclr-cifar10-mlp --budget 2m
           zoo train simvae-cifar10 --data cifar10 --out runs/simvae-cifar10
Time:      ``-conv``: on one CPU core without bfloat16, ``simvae-cifar10-conv`` takes 96 minutes,
           and ``vae-cifar10-conv`` 8. ``-mlp``: minutes on a CPU. The others need a GPU.
Accuracy:  k-NN and MLP probe: ``simvae-cifar10-conv`` 47.9 and 53.7 after 3.3 M views (k-NN by
           cosine 53.8), ``vae-cifar10-conv`` 38.7 and 53.1 after 500,000 (52.9 by cosine).
           ``simclr-cifar10-conv`` reaches k-NN 68.0 (cosine), a linear probe of 72.7 and an MLP
           probe of 74.8 after its 10 M views, in 107 minutes with bfloat16. The ResNet recipes have
           not been trained yet.

Generative recipes use the authors' narrow ResNet-18 (about 1 GFLOP per view). Discriminative
recipes use the full one, with its 512 pooled features as the representation, for 200 epochs, as the
field's benchmarks do. The ``-mlp`` recipes use weaker colour jitter, the same for all methods.

``simvae-cifar10-mlp`` uses 4 views of more images and the content prior N(0, I). After 180,000
views, its k-NN accuracy was 37.5; with a flat prior 36.2, and with 10 views of fewer images as well
33.0. It remains behind a VAE (41.8 after as many views), which sees whole images only. Before
``simvae-cifar10-conv`` had strong views, J = 8 and D = 128, it reached 42.2 and 51.8 with two mild
views per image and log σ_x² = −4.6, after 500,000 views.
"""

from __future__ import annotations

from repzoo_training.networks import NetworkSpec
from repzoo_training.objectives import LikelihoodSpec
from repzoo_training.recipes.builtin._conv import NOTE, convolutional, for_hours
from repzoo_training.recipes.builtin._methods import COMPARED_ON_TEST, discriminative
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.views.views import ViewSpec

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

vae = simvae.model_copy(
    update={
        "name": "vae-cifar10",
        "summary": "VAE on CIFAR-10",
        "method": "vae",
        "options": {},
        "augmentation": ViewSpec(),
        "views_per_image": 1,
        "images_per_step": 256,
        "views": 20_000_000,
        "paper": "arXiv:1312.6114",
    }
)

beta_vae = vae.model_copy(
    update={
        "name": "beta-vae-cifar10",
        "summary": "β-VAE on CIFAR-10, β = 4",
        "method": "beta-vae",
        "options": {"beta": 4.0},
    }
)

cr_vae = simvae.model_copy(
    update={
        "name": "cr-vae-cifar10",
        "summary": "CR-VAE on CIFAR-10, consistent across crops, mirroring and colour",
        "method": "cr-vae",
        "options": {},
        "views_per_image": 2,
        "images_per_step": 128,
        "views": 20_000_000,
        "paper": "arXiv:2105.14859",
    }
)

generative = (simvae, vae, beta_vae, cr_vae)

#: The same methods with an MLP pair, for a CPU.
few_views = simvae.model_copy(
    update={"views_per_image": 4, "options": {"scatter": 0.15, "prior": "normal"}}
)
small = [
    recipe.model_copy(
        update={
            "name": f"{recipe.name}-mlp",
            "summary": f"{recipe.summary}; an MLP, for a CPU",
            "network": NetworkSpec(kind="mlp", widths=(1000, 500, 500)),
            "augmentation": recipe.augmentation
            if recipe.augmentation.jitter is None
            else recipe.augmentation.model_copy(update={"jitter": (0.4, 0.4, 0.4, 0.1)}),
            "images_per_step": {4: 32, 1: 64, 2: 64}[recipe.views_per_image],
            "views": 2_000_000,
            "notes": (COMPARED_ON_TEST,),
        }
    )
    for recipe in (few_views, vae, beta_vae, cr_vae)
]

#: The same methods with small convolutions, for a CPU.
convolutions = [
    convolutional(
        recipe,
        NetworkSpec(kind="conv", widths=(32, 64, 128, 256), patch=2),
        augmentation=ViewSpec(
            scale=(0.8, 1.0), ratio=(0.9, 1.1), horizontal_flip=0.5, jitter=(0.2, 0.2, 0.2, 0.05)
        ),
        views_per_image=2,
        views=500_000,
    )
    for recipe in (few_views, vae, beta_vae, cr_vae)
]

#: SimVAE for hours: D = 128, J = 8 strong views, and a likelihood that asks less of single pixels.
hours = convolutions[0].model_copy(
    update={
        "latent_dim": 128,
        "likelihood": LikelihoodSpec(kind="gaussian", log_variance=-2.3),
        "augmentation": ViewSpec(
            scale=(0.3, 1.0), ratio=(0.75, 1.33), horizontal_flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1)
        ),
        "views_per_image": 8,
        "images_per_step": 32,
        "views": 3_300_000,
        "notes": (NOTE,),
    }
)

#: A VAE with as many dimensions. More views would make its Euclidean neighbours worse, because they
#: teach it dimensions that say nothing about the object.
small_vae = convolutions[1].model_copy(update={"latent_dim": 128})

RECIPES = [
    *generative,
    *discriminative(
        simvae,
        "cifar10",
        "CIFAR-10",
        network=NetworkSpec(kind="resnet18", widths=(64, 128, 256, 512), head="none"),
        latent_dim=512,
        augmentation=ViewSpec(
            scale=(0.2, 1.0),
            ratio=(0.75, 1.33),
            horizontal_flip=0.5,
            jitter=(0.4, 0.4, 0.4, 0.1),
        ),
        images_per_step=512,
        views=200 * 50_000 * 2,
    ),
    *small,
    *discriminative(small[0], "cifar10-mlp", "CIFAR-10; an MLP, for a CPU"),
    hours,
    small_vae,
    *convolutions[2:],
    *(
        for_hours(
            recipe,
            patch=2,
            augmentation=recipe.augmentation.model_copy(update={"greyscale": 0.2}),
            views=9_999_872,
        )
        if recipe.method == "simclr"
        else recipe
        for recipe in discriminative(
            convolutions[0],
            "cifar10-conv",
            "CIFAR-10; small convolutions, for a CPU",
            augmentation=ViewSpec(
                scale=(0.2, 1.0),
                ratio=(0.75, 1.33),
                horizontal_flip=0.5,
                jitter=(0.4, 0.4, 0.4, 0.1),
            ),
        )
    ),
]
