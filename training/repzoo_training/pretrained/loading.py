"""From the name of a package, or the folder of a run, to networks in torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from repzoo.errors import PackageError, RepzooError
from repzoo.loading import find
from repzoo.packages.package import Package
from repzoo.runtime.encoder import Encoder
from torch import Tensor, nn

from repzoo_training import networks
from repzoo_training.data import ImageDataset
from repzoo_training.errors import RecipeError, problems
from repzoo_training.export.card import TrainingRecord
from repzoo_training.loop.start import Start
from repzoo_training.loop.trained import DecoderGraph, EncoderGraph, TrainedModel
from repzoo_training.pretrained.graph_weights import read_weights
from repzoo_training.pretrained.normalisation import settle
from repzoo_training.randomness import generator
from repzoo_training.recipes.extensions import VARIABLE, installed
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.recipes.registry import find_recipe
from repzoo_training.run import run_in
from repzoo_training.views.views import Views

__all__ = ["load", "start_from"]

Pixels = NDArray[np.uint8]
#: Images from which batch normalisations get their statistics, and how many run at once.
_IMAGES, _BATCH = 2048, 64
#: Largest difference from the package, in standard deviations of the output.
_PARITY = 1e-3


class _Networks(NamedTuple):
    encoder: EncoderGraph
    decoder: DecoderGraph | None


def load(
    name_or_path: str | Path,
    *,
    hub: str | None = None,
    revision: str | None = None,
    images: Pixels | None = None,
) -> EncoderGraph:
    """Return the encoder of a package as a torch module, in evaluation mode on the CPU.

    The weights are those of ``encoder.onnx``. The outputs are compared with those of the package.

        >>> encoder = repzoo_training.load("simclr-cifar10", images=train.images)
        >>> encoder(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).shape
        torch.Size([1, 256])
        >>> encoder.encoder.backbone  # float32 [N, C, H, W] -> features

    Args:
        name_or_path: a package that zoo export made; see `repzoo.load`.
        hub: see `repzoo.load`.
        revision: see `repzoo.load`.
        images: uint8 ``[N, H, W, C]`` of the model's size. Batch normalisations get the statistics
            of these images, which they need in training mode: a package does not store any. Use
            images, or views of images, like those to be trained on. The outputs in evaluation mode
            stay the same.

    Returns:
        A module: uint8 ``[N, H, W, C]`` -> embedding float32 ``[N, D]``, or mean and log_variance
        with a posterior.

    Raises:
        PackageError: If the package was imported, is stored as int8, has a network that is not
            registered, or gives other outputs than the module.
        RepzooError: Like `repzoo.load`.
    """
    package = find(name_or_path, hub=hub, revision=revision)
    encoder = _networks(package).encoder
    if images is not None:
        settle(encoder, _batches(images))
    return encoder.requires_grad_(True)


def start_from(
    source: str, dataset: ImageDataset, recipe: Recipe, *, hub: str | None = None
) -> Start:
    """Return the weights of a package, or of a run's last checkpoint.

    Args:
        source: a package's name or path, or a run's folder.
        dataset: the images that will be trained on.
        recipe: the recipe of that training. The batch normalisations of a package get the
            statistics of its views: those of other images would change the encoder within a few
            steps.
        hub: the hub of a package that is given by name.

    Raises:
        RepzooError: If there is no such package or run, or its weights cannot be read.
    """
    if (run := run_in(source, hub)) is not None:
        model = TrainedModel(source)
        digest = hashlib.sha256(run.checkpoint_file.read_bytes()).hexdigest()
        name = f"the run {model.recipe.name} (checkpoint {digest[:12]})"
        return _start(name, model.recipe.name, _Networks(model.encoder, model.decoder))
    package = find(source, hub=hub)
    found = _networks(package)
    encoder = found.encoder.encoder
    views = list(_views(dataset.images, recipe))
    try:
        settle(encoder, views)
        if found.decoder is not None:
            settle(found.decoder, (_mean(encoder(x)) for x in views))
    except RuntimeError as error:  # images of another size than the network takes
        height, width, channels = package.config.input.shape
        raise RecipeError(
            f"{package.config.name} is for images of {height}×{width}×{channels}, but the recipe "
            f"is for {'×'.join(map(str, dataset.shape))}"
        ) from error
    name = f"{package.config.name}@sha256:{package.revision}"
    return _start(name, package.config.facts.recipe, found)


def _start(source: str, recipe: str, found: _Networks) -> Start:
    decoder = None if found.decoder is None else found.decoder.decoder.state_dict()
    return Start(source, recipe, found.encoder.encoder.state_dict(), decoder)


@torch.no_grad()
def _networks(package: Package) -> _Networks:
    """Return the networks of a package, after comparing them with its graphs."""
    config, recipe = package.config, _recipe(package)
    if config.precision == "int8":
        raise PackageError(
            f"{config.name} computes in int8, and cannot be trained: use its float16 or float32 "
            "package"
        )
    encoder: nn.Module
    decoder: nn.Module | None = None
    try:
        if config.has_posterior:
            encoder, decoder = networks.build(recipe.network, recipe.image_shape, recipe.latent_dim)
        else:
            encoder = networks.build_encoder(recipe.network, recipe.image_shape, recipe.latent_dim)
            if config.has_decoder:
                decoder = networks.build_decoder(
                    recipe.network, recipe.image_shape, recipe.latent_dim
                )
    except ValueError as error:
        raise PackageError(f"{config.name}: {error}") from None
    found = _Networks(
        EncoderGraph(encoder, recipe.augmentation).eval(),
        None if decoder is None else DecoderGraph(decoder).eval(),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, *config.input.shape), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    read_weights(package.path / "encoder.onnx", found.encoder, images)
    reference = Encoder(package.path, config, provider="cpu")
    outputs = found.encoder(images)
    for name, output in zip(
        config.outputs, outputs if config.has_posterior else (outputs,), strict=True
    ):
        _compare(config.name, name, output, reference.outputs(pixels)[name])
    if found.decoder is not None:
        latents = _mean(outputs)
        read_weights(package.path / "decoder.onnx", found.decoder, latents)
        expected = reference.generate(latents=latents.numpy()).images
        _compare(config.name, "images", found.decoder(latents), expected)
    return found


def _compare(name: str, output: str, given: Tensor, expected: NDArray[np.float32]) -> None:
    off = float(np.abs(given.numpy() - expected).max()) / max(float(expected.std()), 1e-6)
    if not off <= _PARITY:
        raise PackageError(
            f"{name}: {output} of the module and of the package differ by {off:.2g} standard "
            "deviations"
        )


def _recipe(package: Package) -> Recipe:
    config = package.config
    if config.training is None:
        raise PackageError(
            f"{config.name} was imported from {config.source}, and its network is not known: train "
            "it where it comes from, and import it again"
        )
    path = package.path / "metrics.json"
    training = json.loads(path.read_bytes()).get("training") if path.exists() else None
    installed()  # it may have a network, a method or views of the user's own
    try:
        if training:
            return TrainingRecord.model_validate(training).recipe
        return find_recipe(config.training.recipe)
    except (ValueError, RepzooError) as error:
        reason = problems(error) if isinstance(error, ValidationError) else error
        raise PackageError(
            f"{config.name} was trained with a network or recipe that this installation does not "
            f"have: {reason}; name the file that registers it in {VARIABLE}"
        ) from None


def _batches(images: Pixels) -> Iterator[Tensor]:
    """Yield up to `_IMAGES` images, spread evenly, in batches."""
    chosen = images[:: -(-len(images) // _IMAGES)]
    for start in range(0, len(chosen), _BATCH):
        yield torch.from_numpy(np.ascontiguousarray(chosen[start : start + _BATCH]))


def _views(images: Pixels, recipe: Recipe) -> Iterator[Tensor]:
    """Yield a view of each of up to `_IMAGES` images: float32 ``[N, C, H, W]``."""
    make = Views(recipe.augmentation, images.shape[1:3])
    draws = generator(recipe.seed, "measurement")
    for batch in _batches(images):
        yield make(batch.permute(0, 3, 1, 2).contiguous(), 1, draws)[:, 0].contiguous()


def _mean(outputs: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs
