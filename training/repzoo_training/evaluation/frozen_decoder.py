"""Train a decoder on a frozen representation, to see what its embeddings keep of the images.

Discriminative methods have no decoder. A decoder with the architecture of a generative recipe is
fitted afterwards to pairs of embedding and image, while the encoder stays frozen. Over a fixed
number of steps, with batches decided by a seed, it minimises

    −Σ_pixels [x log m + (1 − x) log(1 − m)],    m = sigmoid(decoder(z)),  x in [0, 1]

whose minimiser m = E[x|z] also minimises the squared error. Embeddings are standardised first,
because their scale is an accident of the method. The standardisation is then folded into the first
layer, so the decoder takes embeddings as the encoder outputs them.
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
from repzoo_training.evaluation.inputs import moments
from repzoo_training.evaluation.representation import represent
from repzoo_training.loop.trained import TrainedModel
from repzoo_training.networks import LatentDecoder, NetworkSpec, build_decoder
from repzoo_training.randomness import generator
from repzoo_training.run import Run

__all__ = ["BATCH", "LEARNING_RATE", "STEPS", "train_decoder", "with_frozen_decoder"]

#: Steps, whatever the number of images. The MLP for MNIST takes about a minute on one CPU core.
STEPS = 1000
#: Pairs per step.
BATCH = 256
#: Adam's initial learning rate. It falls to 0 along a cosine.
LEARNING_RATE = 1e-3

#: Version of this procedure. Decoders kept by another version are trained again.
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
    """Return a model with a decoder trained on its embeddings, kept as ``RUN/decoder.pt``.

    Args:
        run: folder that the model was loaded from.
        model: a model without a decoder of its own. Its device does the computation.
        train: training images of the model's size.
        steps: steps of the decoder's training.
        progress: show a progress bar on a terminal.
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
        network: the encoder's network. The decoder is its mirror.
        seed: decides the initial weights and the order of the pairs. The global random state is
            neither read nor changed.
        steps: number of steps.
        progress: show a progress bar on a terminal.

    Returns:
        The decoder in evaluation mode on the device of the embeddings. It maps float32 ``[N, D]``
        to logits ``[N, C, H, W]``.
    """
    device, (count, dim) = embeddings.device, embeddings.shape
    height, width, channels = images.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "initialisation").initial_seed())
        decoder = build_decoder(network, (channels, height, width), dim).to(device)
    mean, std = moments(embeddings)

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
    """Return the decoder kept for the same weights, images and settings, or None."""
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types for a missing or damaged file
        return None
    state: dict[str, Tensor] | None = kept["decoder"] if kept.get("key") == key else None
    return state
