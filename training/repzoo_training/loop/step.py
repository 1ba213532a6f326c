"""One step of training: its weights at the start, its batch, its loss, its update."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repzoo_training import networks, objectives
from repzoo_training.distributed.gather import rank, world_size
from repzoo_training.errors import RecipeError, RunError
from repzoo_training.loop.parallel import data_parallel, unwrap
from repzoo_training.objectives import Batch, Objective, Parts
from repzoo_training.randomness import generator, image_indices
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.views.views import Views

__all__ = [
    "build_objective",
    "check_shares",
    "compute_gradients",
    "place",
    "rehearse",
    "take_step",
]


def build_objective(recipe: Recipe, images: int) -> Objective:
    """The recipe's objective with its networks, initialised from the recipe's seed.

    Args:
        recipe: what to build.
        images: size of the data set, which memories with a row an image have.

    Raises:
        RecipeError: if the recipe does not hold together.
    """
    shape, D = recipe.image_shape, recipe.latent_dim  # noqa: N806
    # Modules initialise from the global generator; forking keeps the caller's as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(recipe.seed, "initialisation").initial_seed())
        try:
            if objectives.find_method(recipe.method).generative:
                encoder, decoder = networks.build(recipe.network, shape, D)
                likelihood = None if recipe.likelihood is None else recipe.likelihood.build()
                parts = Parts(encoder, D, images, decoder, likelihood)
            else:
                parts = Parts(networks.build_encoder(recipe.network, shape, D), D, images)
            return objectives.build(recipe.method, recipe.options, parts)
        except ValueError as error:
            raise RecipeError(f"recipe {recipe.name}: {error}") from None


def check_shares(recipe: Recipe) -> None:
    """Every process takes the same number of images in every micro-batch.

    Raises:
        RecipeError: if the recipe's images cannot be shared out so.
    """
    shares = world_size() * recipe.accumulate
    if recipe.images_per_step % shares:
        raise RecipeError(
            f"recipe {recipe.name}: {recipe.images_per_step} images_per_step cannot be shared out "
            f"among {world_size()} processes times {recipe.accumulate} micro-batches: "
            f"set images_per_step to a multiple of {shares}"
        )


def place(
    recipe: Recipe, objective: Objective, device: torch.device, *, compiled: bool = False
) -> nn.Module:
    """Put ``objective`` on ``device``, and return what :func:`take_step` calls in its place.

    Convolutions take their channels last, which is how fast kernels want them.

    With ``compiled``, torch.compile fuses what is between the matrix products, and one process on
    a GPU records each part as a CUDA graph, so that a step of a small network does not wait for
    its many launches. Sums may then round otherwise. What no compiler can see through, such as
    generators, runs as ever.

    Raises:
        RunError: if something is to be compiled, and there is no compiler.
    """
    # Of tensors with 4 dimensions only; an MLP has none.
    objective.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    model = data_parallel(objective, device)
    if compiled:
        if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
            raise RunError(
                "compiling a step needs a C++ compiler, and there is none here: install g++, or "
                "train without --compile"
            )
        # A graph's results are gone when it runs again: gradients could not add up in them.
        graphs = device.type == "cuda" and recipe.accumulate == 1 and world_size() == 1
        objective.compile(mode="reduce-overhead" if graphs else None)
    return model


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    make_views: Views,
    recipe: Recipe,
    step: int,
) -> dict[str, Tensor]:
    """Step number ``step``: gradients, update. Returns the loss and its terms."""
    terms = compute_gradients(model, images, make_views, recipe, step)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    unwrap(model).after_step((step + 1) / recipe.steps)
    return terms


def compute_gradients(
    model: nn.Module, images: Tensor, make_views: Views, recipe: Recipe, step: int
) -> dict[str, Tensor]:
    """Views, loss and gradients of step ``step``. Returns the loss and its terms in this process.

    Each micro-batch is a part of the step's images, and each process takes its part of that one.
    Gradients are the mean over micro-batches: those of the whole batch where the loss is a mean
    over images. What compares images (negatives, covariances, batch normalisation) sees one
    micro-batch, of all processes, and a queue takes one at a time.

    Raises:
        RecipeError: if the objective cannot use such a batch.
    """
    device, count = images.device, recipe.accumulate
    chosen = image_indices(recipe.seed, len(images), step, recipe.images_per_step)  # [B]
    own = chosen.view(count, world_size(), -1)[:, rank()].to(device)  # [count, B / count / W]
    draws = generator(recipe.seed, "step", step, device, rank())
    seen = []
    for number, indices in enumerate(own, start=1):
        batch = Batch(
            views=make_views(images[indices], recipe.views_per_image, draws),  # [b, J, C, H, W]
            indices=indices,
            generator=draws,
            epoch=step * recipe.images_per_step // len(images),
            progress=step / recipe.steps,
        )
        with _silently(model) if number < count else nullcontext():
            with torch.autocast(device.type, torch.bfloat16, recipe.precision == "bfloat16"):
                try:
                    terms = model(batch)
                except ValueError as error:
                    raise RecipeError(f"recipe {recipe.name}: {error}") from error
            terms["loss"].backward(torch.full_like(terms["loss"], 1 / count))
        seen.append({name: term.detach() for name, term in terms.items()})
    if count == 1:
        return seen[0]
    return {name: torch.stack([terms[name] for terms in seen]).mean() for name in seen[0]}


def rehearse(
    model: nn.Module, images: Tensor, make_views: Views, recipe: Recipe, step: int
) -> None:
    """Compute gradients and leave no trace, except in how torch lays out its messages.

    DistributedDataParallel settles that by its first backward pass, and sums of more than two
    processes depend on it in their last bits: a resumed run must start where others are.
    """
    before = {name: value.clone() for name, value in unwrap(model).state_dict().items()}
    compute_gradients(model, images, make_views, recipe, step)
    model.zero_grad(set_to_none=True)
    unwrap(model).load_state_dict(before)


def _silently(model: nn.Module) -> AbstractContextManager[None]:
    """Gradients travel once a step, with the last micro-batch, and not in here."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
