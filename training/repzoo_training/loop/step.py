"""One training step: initial weights, batch, loss and update."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repzoo_training import networks, objectives
from repzoo_training.data import ImageDataset
from repzoo_training.distributed.gather import rank, world_size
from repzoo_training.errors import RecipeError, RunError
from repzoo_training.loop.parallel import data_parallel
from repzoo_training.loop.start import Start
from repzoo_training.objectives import Batch, Objective, Parts
from repzoo_training.optim.optimizers import build_optimizer
from repzoo_training.randomness import generator, image_indices
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.views.groups import Groups
from repzoo_training.views.views import Views

__all__ = ["Learner", "build_objective", "check_shares", "to_device"]


def build_objective(recipe: Recipe, images: int, start: Start | None = None) -> Objective:
    """Build the recipe's objective and networks, initialised from the recipe's seed.

    Args:
        recipe: The recipe to build.
        images: The size of the data set, for memory banks with one row per image.
        start: The initial weights of the encoder, and of a decoder. The rest is initialised.

    Raises:
        RecipeError: If the recipe is inconsistent, or ``start`` is of another network.
    """
    shape, D = recipe.image_shape, recipe.latent_dim  # noqa: N806
    # Modules are initialised from the global generator. Forking preserves the caller's state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(recipe.seed, "initialisation").initial_seed())
        try:
            if objectives.find_method(recipe.method).generative:
                encoder, decoder = networks.build(recipe.network, shape, D)
                if start is not None:
                    start.load_into(encoder, decoder)
                likelihood = None if recipe.likelihood is None else recipe.likelihood.build()
                parts = Parts(encoder, D, images, decoder, likelihood)
            else:
                point = networks.build_encoder(recipe.network, shape, D)
                if start is not None:  # before the objective makes copies of the encoder
                    start.load_into(point, None)
                parts = Parts(point, D, images)
            return objectives.build(recipe.method, recipe.options, parts)
        except (ValueError, RuntimeError) as error:  # such as networks larger than the memory
            raise RecipeError(f"recipe {recipe.name}: {error}") from None


def check_shares(recipe: Recipe) -> None:
    """Check that all processes get the same number of images in every micro-batch.

    Raises:
        RecipeError: If the images of a step cannot be divided equally.
    """
    shares = world_size() * recipe.accumulate
    if recipe.images_per_step % shares:
        raise RecipeError(
            f"recipe {recipe.name}: images_per_step is {recipe.images_per_step}, which cannot be "
            f"divided equally among {world_size()} processes with {recipe.accumulate} "
            f"micro-batches each: set images_per_step to a multiple of {shares}"
        )


def to_device(dataset: ImageDataset, device: torch.device) -> Tensor:
    """Copy the images of a data set to a device: uint8 ``[N, C, H, W]``."""
    return torch.from_numpy(dataset.images).permute(0, 3, 1, 2).contiguous().to(device)


class Learner:
    """A recipe's objective, optimizer, images and views, ready to take steps on one device.

    Convolutions use the channels-last memory format, which fast kernels expect.

    Args:
        recipe: The recipe to train.
        images: The data set, uint8 ``[N, C, H, W]`` on the device to train on.
        groups: The thing that each image shows, int64 ``[N]``, if images of one group are views of
            one thing: the first view is of the image itself, and each other view is of a random
            image of its group.
        compiled: Compile the objective: torch.compile fuses the operations between matrix products.
            A single process on a GPU also records CUDA graphs, so that the step of a small network
            does not wait for kernel launches. Sums may round differently. Code that cannot be
            compiled, such as generators, runs as usual.
        start: The initial weights, see :func:`build_objective`.
        begin: The first step of the current schedule, if the run was extended.

    Attributes:
        objective: The loss with its networks.
        model: The objective, wrapped for data parallelism if there are several processes.
        optimizer: The optimizer of all trained parameters.
        make_views: The random augmentation.

    Raises:
        RecipeError: If the recipe is inconsistent.
        RunError: If ``compiled`` is set and no C++ compiler is installed.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: Tensor,
        groups: NDArray[np.int64] | None = None,
        *,
        compiled: bool = False,
        start: Start | None = None,
        begin: int = 0,
    ) -> None:
        self.recipe = recipe
        self.begin = begin
        self.images = images
        self.groups = None if groups is None else Groups(groups, images.device)
        device = images.device
        self.objective = build_objective(recipe, len(images), start)
        # channels_last applies to 4-D tensors only; an MLP has none.
        self.objective.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.model: nn.Module = data_parallel(self.objective, device)
        if compiled:
            self._compile()
        self.optimizer = build_optimizer(recipe, self.objective)
        self.make_views = Views(recipe.augmentation, recipe.image_shape[1:], device)

    def step(self, step: int) -> dict[str, Tensor]:
        """Take step number ``step``, and return the loss and its terms."""
        terms = self.compute_gradients(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(self._progress(step + 1))
        return terms

    def compute_gradients(self, step: int) -> dict[str, Tensor]:
        """Compute the gradients of step ``step``, and return this process's loss and its terms.

        A step's images are split into micro-batches, and each micro-batch is split among the
        processes. Gradients are averaged over micro-batches. They equal the gradients of the whole
        batch if the loss is a mean over images. Anything that compares images (negatives,
        covariances, batch normalisation) sees one micro-batch of all processes, and a queue takes
        one micro-batch at a time.

        Raises:
            RecipeError: If the objective cannot use a batch of this shape.
        """
        recipe, images = self.recipe, self.images
        device, count = images.device, recipe.accumulate
        chosen = image_indices(recipe.seed, len(images), step, recipe.images_per_step)  # [B]
        own = chosen.view(count, world_size(), -1)[:, rank()].to(device)  # [count, B / count / W]
        draws = generator(recipe.seed, "step", step, device, rank())
        seen = []
        for number, indices in enumerate(own, start=1):
            batch = Batch(
                views=self._views(indices, draws),
                indices=indices,
                generator=draws,
                epoch=step * recipe.images_per_step // len(images),
                progress=self._progress(step),
            )
            with nullcontext() if number == count else self._without_sync():
                with torch.autocast(device.type, torch.bfloat16, recipe.precision == "bfloat16"):
                    try:
                        terms = self.model(batch)
                    except ValueError as error:
                        reason = str(error)
                        if "more than 1 value per channel" in reason:  # torch's batch normalisation
                            reason = (
                                "batch normalisation needs more than one view to process at a "
                                f"time: raise images_per_step ({recipe.images_per_step}) or "
                                f"views_per_image ({recipe.views_per_image})"
                            )
                        raise RecipeError(f"recipe {recipe.name}: {reason}") from error
                terms["loss"].backward(torch.full_like(terms["loss"], 1 / count))
            seen.append({name: term.detach() for name, term in terms.items()})
        if count == 1:
            return seen[0]
        return {name: torch.stack([terms[name] for terms in seen]).mean() for name in seen[0]}

    def _progress(self, step: int) -> float:
        """Return the completed fraction of the current schedule before step ``step``."""
        return (step - self.begin) / (self.recipe.steps - self.begin)

    def _views(self, indices: Tensor, draws: torch.Generator) -> Tensor:
        """Return views float32 ``[B, J, C, H, W]`` of the images, or of their groups."""
        J = self.recipe.views_per_image  # noqa: N806
        if self.groups is None:
            return self.make_views(self.images[indices], J, draws)
        shown = self.groups.draw(indices, J, draws)  # [B, J]
        views = self.make_views(self.images[shown.flatten()], 1, draws)  # [B*J, 1, C, H, W]
        return views.view(*shown.shape, *views.shape[2:])

    def rehearse(self, step: int) -> None:
        """Compute gradients once and discard them.

        In its first backward pass, DistributedDataParallel decides how gradients are grouped into
        messages. With more than two processes, the last bits of the sums depend on that grouping.
        A resumed run must therefore get through this pass before its first step.
        """
        before = {name: value.clone() for name, value in self.objective.state_dict().items()}
        self.compute_gradients(step)
        self.model.zero_grad(set_to_none=True)
        self.objective.load_state_dict(before)

    def _without_sync(self) -> AbstractContextManager[None]:
        """Keep gradients local: they are exchanged once per step, with the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()

    def _compile(self) -> None:
        if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
            raise RunError(
                "compiling the step needs a C++ compiler, and none is installed: install g++, or "
                "train without --compile"
            )
        # A CUDA graph overwrites its results when it runs again, so gradients cannot accumulate.
        graphs = (
            self.images.device.type == "cuda" and self.recipe.accumulate == 1 and world_size() == 1
        )
        self.objective.compile(mode="reduce-overhead" if graphs else None)
