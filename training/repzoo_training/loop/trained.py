"""A trained run as a representation, in torch: the reference for exported packages."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import UnsupportedOperation
from torch import Tensor

from repzoo_training.errors import RunError
from repzoo_training.loop.step import build_objective
from repzoo_training.objectives import find_method
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.run import Run
from repzoo_training.views.views import ViewSpec

__all__ = ["DecoderGraph", "EncoderGraph", "Reconstruction", "TrainedModel", "last_observation"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


class EncoderGraph(torch.nn.Module):
    """The module behind ``encoder.onnx``, including scaling, layout and the last step of the views.

    uint8 ``[N, H, W, C]`` -> float32 embedding ``[N, D]``, or mean and log_variance ``[N, D]``.
    """

    def __init__(self, encoder: torch.nn.Module, augmentation: ViewSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.augmentation = augmentation

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = images.permute(0, 3, 1, 2).to(torch.float32) / 255  # [N, C, H, W]
        outputs: Tensor | tuple[Tensor, Tensor] = self.encoder(self.augmentation.finish(x))
        return outputs


class DecoderGraph(torch.nn.Module):
    """The module behind ``decoder.onnx``: latents ``[N, D]`` -> images ``[N, H, W, C]``.

    Both are float32, and the images are in [0, 1].
    """

    def __init__(self, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(latents)).permute(0, 2, 3, 1)


class Reconstruction(NamedTuple):
    """Float32 ``images`` ``[N, H, W, C]`` in [0, 1] and their mean squared ``error`` ``[N]``."""

    images: Floats
    error: Floats


class TrainedModel:
    """The networks of a run at its last checkpoint, in evaluation mode.

    Attributes:
        recipe: The recipe of the run.
        encoder: uint8 images -> embedding, or mean and log_variance.
        decoder: Latents -> images, or None if the method has no decoder.
        has_posterior: Whether the encoder returns a log_variance.
        has_added_decoder: Whether the decoder was trained afterwards; see :meth:`with_decoder`.
        steps: The number of optimizer steps.
        wall_seconds: The training time.
        threads: The number of CPU threads, as text; empty on a GPU.
        collapse: The last collapse statistics of the run; see
            :mod:`repzoo_training.watching.collapse`. Empty if the run has none.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        """Load the run in the folder ``path``.

        Raises:
            RunError: If the folder has no run with a checkpoint.
        """
        run = Run(path)
        record = run.read_record()
        if record is None:
            raise RunError(f"{path} holds no run: no run.json")
        self.record = record
        self.recipe: Recipe = record.recipe
        self.device = torch.device(device)
        objective = build_objective(self.recipe, record.dataset_images)
        checkpoint = run.load_weights(objective)
        self.steps = checkpoint.step
        self.wall_seconds = checkpoint.wall_seconds
        self.threads = checkpoint.environment["threads"]
        self.collapse = last_observation(run)
        objective.requires_grad_(False).eval().to(self.device)
        self.encoder = EncoderGraph(objective.encoder, self.recipe.augmentation).eval()
        self.has_posterior = find_method(self.recipe.method).generative
        self.has_added_decoder = False
        self.decoder = None if objective.decoder is None else DecoderGraph(objective.decoder).eval()

    @property
    def views(self) -> int:
        """The number of views trained on."""
        return self.steps * self.recipe.views_per_step

    @property
    def output_names(self) -> tuple[Literal["embedding", "log_variance"], ...]:
        """The names of the encoder's outputs, in order."""
        return ("embedding", "log_variance") if self.has_posterior else ("embedding",)

    def outputs(self, images: Pixels) -> dict[str, Floats]:
        """Return all encoder outputs for uint8 images ``[N, H, W, C]``: float32 ``[N, D]`` each."""
        with torch.no_grad():
            found = self.encoder(torch.from_numpy(images).to(self.device))
        tensors = found if self.has_posterior else (found,)
        return {
            name: tensor.cpu().numpy()
            for name, tensor in zip(self.output_names, tensors, strict=True)
        }

    def posterior(self, images: Pixels) -> tuple[Floats, Floats]:
        """Return mean and log_variance, float32 ``[N, D]`` each, for uint8 images ``[N, H, W, C]``.

        Raises:
            UnsupportedOperation: If the method has no posterior.
        """
        if not self.has_posterior:
            raise UnsupportedOperation(f"{self.recipe.method} has no posterior")
        outputs = self.outputs(images)
        return outputs["embedding"], outputs["log_variance"]

    def embed(self, images: Pixels, /) -> Floats:
        """Return the embedding, or the posterior mean: float32 ``[N, D]``."""
        return self.outputs(images)["embedding"]

    def with_decoder(self, decoder: torch.nn.Module) -> TrainedModel:
        """Return a copy with a decoder that was trained on the frozen representation.

        Args:
            decoder: Latents ``[N, D]`` -> logits ``[N, C, H, W]``.
        """
        other = copy.copy(self)
        decoder = decoder.requires_grad_(False).eval().to(self.device)
        other.decoder = DecoderGraph(decoder).eval()
        other.has_added_decoder = True
        return other

    def decode(self, latents: Floats) -> Floats:
        """Return images, float32 ``[N, H, W, C]`` in [0, 1], for latents ``[N, D]``.

        Raises:
            UnsupportedOperation: If the run has no decoder.
        """
        if self.decoder is None:
            raise UnsupportedOperation(f"{self.recipe.method} has no decoder")
        with torch.no_grad():
            images: Tensor = self.decoder(torch.from_numpy(latents).to(self.device))
        return images.cpu().numpy()

    def reconstruct(self, images: Pixels) -> Reconstruction:
        """Encode and decode uint8 images ``[N, H, W, C]``."""
        decoded = self.decode(self.embed(images))
        error = np.square(decoded - images.astype(np.float32) / 255).mean((1, 2, 3))
        return Reconstruction(decoded, error)


def last_observation(run: Run) -> dict[str, Any]:
    """Return the last line of ``metrics.jsonl`` with collapse statistics; empty without one."""
    return next(reversed(run.observations()), {})
