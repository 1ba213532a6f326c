"""A decoder trained on a frozen representation: what its embeddings still hold of the images.

Discriminative methods have no decoder. To see what they keep, one of the shape that a generative
method's recipe would have is fitted afterwards to pairs of embedding and image; the encoder stays
as it is. It minimises, over fixed steps that a seed decides,

    −Σ_pixels [x log m + (1 − x) log(1 − m)],    m = sigmoid(decoder(z)),  x in [0, 1]

whose minimiser is m = E[x|z], that of the squared error too. Embeddings are standardised first, for
their scale is an accident of the method; that is folded into the decoder's first layer, which then
takes them as the encoder gives them.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from repzoo.files import write_atomically
from torch import Tensor
from torch.nn import functional as F
from tqdm import trange

from repzoo_training.data import ImageDataset
from repzoo_training.evaluation import represent
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.networks import LatentDecoder, NetworkSpec, build_decoder
from repzoo_training.randomness import generator
from repzoo_training.run import Run

__all__ = ["BATCH", "LEARNING_RATE", "STEPS", "train_decoder", "with_frozen_decoder"]

#: Steps, however many images there are; about a minute on one CPU core for the MLP of MNIST.
STEPS = 1000
#: Pairs in one step.
BATCH = 256
#: Adam's learning rate at the start; it falls to 0 by a cosine.
LEARNING_RATE = 1e-3

#: A dimension that varies by less than this share of its mean, float32's rounding, is constant.
_CONSTANT = 1e-6

#: Version of the above: decoders kept from another one are trained again.
_VERSION = 1
_FILE = "decoder.pt"


def with_frozen_decoder(
    run: str | Path,
    model: TrainedModel,
    train: ImageDataset,
    *,
    steps: int = STEPS,
    progress: bool = True,
) -> TrainedModel:
    """``model`` with a decoder trained on its embeddings of ``train``; kept as ``RUN/decoder.pt``.

    Args:
        run: the folder that ``model`` was loaded from.
        model: a run without a decoder of its own; computation is on its device.
        train: images of its size.
        steps: of the decoder's training.
        progress: show a bar, on a terminal only.
    """
    file = Path(run) / _FILE
    with Run(run).checkpoint_file.open("rb") as checkpoint:
        weights = hashlib.file_digest(checkpoint, "sha256").hexdigest()
    key = f"{_VERSION} {weights} {train.sha256} {steps}"
    recipe = model.recipe
    state = _read(file, key)
    if state is not None:
        decoder = build_decoder(recipe.network, recipe.image_shape, recipe.latent_dim)
        decoder.load_state_dict(state)
        return model.with_decoder(decoder)
    embeddings = represent(model, train.images, progress=progress)
    decoder = train_decoder(
        torch.from_numpy(embeddings).to(model.device),
        torch.from_numpy(train.images).to(model.device),
        recipe.network,
        steps=steps,
        progress=progress,
    )
    buffer = io.BytesIO()
    torch.save({"key": key, "decoder": decoder.state_dict()}, buffer)
    write_atomically(file, buffer.getvalue())
    return model.with_decoder(decoder)


def train_decoder(
    embeddings: Tensor,
    images: Tensor,
    network: NetworkSpec,
    *,
    seed: int = 0,
    steps: int = STEPS,
    progress: bool = True,
) -> LatentDecoder:
    """Fit a decoder to pairs of embedding and image.

    Args:
        embeddings: float32 ``[N, D]``.
        images: uint8 ``[N, H, W, C]``, on the same device.
        network: whose mirror the decoder is.
        seed: decides initial weights and the order of the pairs; the global random state is neither
            read nor changed.
        steps: how many.
        progress: show a bar, on a terminal only.

    Returns:
        In evaluation mode, on the device of the embeddings: float32 ``[N, D]`` -> logits
        ``[N, C, H, W]``.
    """
    device, (count, dim) = embeddings.device, embeddings.shape
    height, width, channels = images.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "initialisation").initial_seed())
        decoder = build_decoder(network, (channels, height, width), dim).to(device)
    mean = embeddings.double().mean(0)
    std = embeddings.double().std(0, correction=0)
    std = torch.where(std > _CONSTANT * mean.abs(), std, 1.0)

    optimizer = torch.optim.Adam(decoder.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draws = generator(seed, "order")
    decoder.train()
    for _ in trange(steps, desc="decoder", disable=None if progress else True):
        chosen = torch.randint(count, (BATCH,), generator=draws).to(device)
        z = ((embeddings[chosen] - mean) / std).float()  # [B, D]
        x = images[chosen].permute(0, 3, 1, 2).float() / 255  # [B, C, H, W]
        loss = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") / len(x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    # W (z − mean) / std + b = (W / std) z + (b − (W / std) mean)
    with torch.no_grad():
        weight = decoder.stem.weight.double() / std
        decoder.stem.bias.copy_(decoder.stem.bias.double() - weight @ mean)
        decoder.stem.weight.copy_(weight)
    return decoder.requires_grad_(False).eval()


def _read(file: Path, key: str) -> dict[str, Tensor] | None:
    """What is kept of the same weights, images and settings; nothing if it cannot be read."""
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a missing or damaged file
        return None
    state: dict[str, Tensor] | None = kept["decoder"] if kept.get("key") == key else None
    return state
