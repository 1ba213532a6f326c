"""What a frozen representation still holds of the pixels, told by a decoder trained on it.

The same decoder, budget and seed for every method: its error orders representations, and is not
that of the best decoder there could be.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from repzoo_training.evaluation.inputs import default_device
from repzoo_training.evaluation.report import Measure
from repzoo_training.networks import LatentDecoder, NetworkSpec, build_decoder

__all__ = ["measure_decoder", "train_decoder"]

#: Adam's steps, the images in each, and its rate at the start; it falls to 0 by a cosine.
STEPS = 1000
BATCH = 128
LEARNING_RATE = 1e-3

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def train_decoder(
    z: Floats,
    images: Pixels,
    network: NetworkSpec,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> LatentDecoder:
    """A decoder of frozen embeddings.

    It minimises the cross-entropy of pixel values in [0, 1], which like the squared error is least
    for the mean image of an embedding, and is faster to train through a sigmoid.

    Args:
        z: float32 ``[N, D]``.
        images: uint8 ``[N, H, W, C]`` that they are of.
        network: of the encoder; the decoder is its mirror.
        steps: of Adam.
        seed: decides the initial weights and the order of the batches; the global random state is
            neither read nor changed.
        device: where to train; None for the GPU if there is one.
        progress: show a bar, on a terminal only.

    Returns:
        On the CPU and in evaluation mode, embeddings ``[N, D]`` -> logits ``[N, C, H, W]``, of
        which images are the sigmoid. Embeddings are taken as the encoder gives them: they are
        standardised for training, and that is folded into the first layer.
    """
    place = default_device(device)
    _, H, W, C = images.shape  # noqa: N806
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = build_decoder(network, (C, H, W), z.shape[1]).to(place).train()
    mean, std = z.mean(0, dtype=np.float64), z.std(0, dtype=np.float64)
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
    latents = torch.from_numpy(((z - mean) / std).astype(np.float32)).to(place)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    batch = min(BATCH, len(z))
    order = torch.empty(0, dtype=torch.int64)
    for _ in trange(steps, desc="decoder", disable=None if progress else True):
        if len(order) < batch:  # an epoch ends; what is left of it makes no batch
            order = torch.randperm(len(z), generator=generator)
        chosen, order = order[:batch], order[batch:]
        target = _tensor(images[chosen.numpy()], place)
        optimiser.zero_grad()
        logits: Tensor = decoder(latents[chosen.to(place)])
        F.binary_cross_entropy_with_logits(logits, target).backward()
        optimiser.step()
        schedule.step()
    decoder = decoder.cpu().eval().requires_grad_(False)
    _fold(decoder.stem, torch.from_numpy(mean), torch.from_numpy(std))
    return decoder


@torch.no_grad()
def measure_decoder(
    decoder: LatentDecoder,
    z: Floats,
    images: Pixels,
    *,
    steps: int = STEPS,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str | None = None,
) -> Measure:
    """``decoder_reconstruction``: mean squared error of pixel values of test images.

    Args:
        decoder: of :func:`train_decoder`.
        z: float32 ``[N, D]``, embeddings of ``images``.
        images: uint8 ``[N, H, W, C]``.
        steps: that it was trained for, for the protocol.
        seed: likewise.
        batch_size: images that are decoded at a time.
        device: where to decode; None for the GPU if there is one.
    """
    place = default_device(device)
    decoder.to(place)
    errors = []
    for start in range(0, len(z), batch_size):
        rows = slice(start, start + batch_size)
        decoded = torch.sigmoid(decoder(torch.from_numpy(z[rows]).to(place)))
        errors.append((decoded - _tensor(images[rows], place)).square().mean((1, 2, 3)).cpu())
    decoder.cpu()
    return Measure.of_scores(
        "decoder_reconstruction",
        torch.cat(errors).double().numpy(),
        unit="mean squared error",
        protocol={
            "of": "pixel values in [0, 1]",
            "decoder": "trained on the frozen encoder, its mirror",
            "loss": "cross-entropy",
            "optimiser": "Adam",
            "learning rate": LEARNING_RATE,
            "schedule": "cosine",
            "batch": BATCH,
            "steps": steps,
            "seed": seed,
        },
    )


def _tensor(images: Pixels, device: torch.device) -> Tensor:
    """uint8 ``[N, H, W, C]`` -> float32 ``[N, C, H, W]`` in [0, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def _fold(layer: nn.Linear, mean: Tensor, std: Tensor) -> None:
    """W (z − mean) / std + b = (W / std) z + (b − (W / std) mean)."""
    weight = layer.weight.double() / std
    layer.bias.copy_(layer.bias.double() - weight @ mean)
    layer.weight.copy_(weight)
