"""Feature extractors for Fréchet distances.

``CNNFeatures`` needs no download. It is a small convolutional network, trained for a fixed budget
on the labels of the data set, so its features separate the classes. Its distances compare models on
one data set and are unrelated to published FIDs.

``InceptionFeatures`` is Inception-v3 with weights from a file. Published FIDs use the TensorFlow
graph of 2015-12-05, whose weights, pooling and resizing differ from torchvision's. The numbers are
close to published ones, but their first decimal is not comparable.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm, trange

from repzoo_training.evaluation.inputs import Labels, default_device

__all__ = ["CNNFeatures", "Features", "InceptionFeatures", "extract"]

#: Adam's steps, images per step, and initial learning rate.
STEPS = 500
BATCH = 64
LEARNING_RATE = 2e-3

#: Images float32 ``[N, H, W, C]`` in [0, 1], or uint8.
Images = NDArray[np.float32] | NDArray[np.uint8]


class Features(Protocol):
    """A function from images float32 ``[N, C, H, W]`` in [0, 1] to features ``[N, F]``.

    Attributes:
        prefix: starts the names of the measures, so distances in different features stay apart.
        description: describes the features in the protocol.
    """

    prefix: str
    description: str

    def __call__(self, x: Tensor, /) -> Tensor: ...


class CNNFeatures:
    """The last 64 channels of a network of four convolutions, averaged over positions.

    Args:
        images: training images, uint8 ``[N, H, W, C]``.
        labels: their labels. Without labels the weights stay random, a weaker yardstick.
        steps: steps of Adam.
        seed: decides weights and batches. The global random state is neither read nor changed.
        device: where to train; by default the GPU if there is one.
        progress: show a progress bar on a terminal.
    """

    prefix = "cnn"

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: Labels | None,
        *,
        steps: int = STEPS,
        seed: int = 0,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> None:
        place = default_device(device)
        channels = images.shape[3]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _cnn(channels).to(place)
            if labels is not None:
                outputs = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
                head = nn.Linear(64, outputs).to(place)
        how = "random weights"
        if labels is not None:
            _fit(self.network, head, images, labels, steps, seed, place, progress)
            how = f"trained on the train labels for {steps} steps of {BATCH}"
        self.network.eval().requires_grad_(False)
        self.description = f"repzoo CNN 1, 64 features, {how}, seed {seed} (not Inception)"

    def __call__(self, x: Tensor, /) -> Tensor:
        features: Tensor = self.network(x)
        return features


class InceptionFeatures:
    """The 2,048 pooled features of torchvision's ``inception_v3``.

    Images are resized bilinearly to 299×299 and scaled to [−1, 1], as the weights that torchvision
    publishes (``inception_v3_google-0cc3c7bd.pth``) expect.

    Args:
        weights: file with the state dictionary of ``torchvision.models.inception_v3()``.
        device: where to compute; by default the GPU if there is one.

    Raises:
        InvalidInput: If the file does not exist or does not hold these weights.
    """

    prefix = "inception"

    def __init__(self, weights: str | Path, *, device: torch.device | str | None = None) -> None:
        from torchvision.models import inception_v3

        self.network = inception_v3(weights=None, transform_input=False, init_weights=False)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            self.network.load_state_dict(state)
            digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        except Exception as error:  # torch raises many types
            raise InvalidInput(
                f"{weights} does not hold weights of torchvision's inception_v3: {error}"
            ) from None
        self.network.fc = nn.Identity()
        self.network.to(default_device(device)).eval().requires_grad_(False)
        self.description = f"torchvision Inception-v3, pool 2048, weights sha256 {digest[:12]}"

    def __call__(self, x: Tensor, /) -> Tensor:
        x = x.expand(-1, 3, -1, -1)
        x = F.interpolate(x, (299, 299), mode="bilinear", antialias=True)
        features: Tensor = self.network(2 * x - 1)
        return features


@torch.no_grad()
def extract(
    features: Features,
    images: Images,
    *,
    batch_size: int = 250,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> NDArray[np.float64]:
    """Return features float64 ``[N, F]`` of images ``[N, H, W, C]``, uint8 or float32 in [0, 1]."""
    place = default_device(device)
    starts = range(0, len(images), batch_size)
    found = [
        features(_tensor(images[start : start + batch_size], place)).double().cpu().numpy()
        for start in tqdm(starts, f"{features.prefix} features", disable=None if progress else True)
    ]
    return np.concatenate(found)


def _cnn(channels: int) -> nn.Sequential:
    """Return an untrained network from images ``[N, C, H, W]`` to features ``[N, 64]``."""
    layers: list[nn.Module] = []
    for fan_in, fan_out, stride in ((channels, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
        convolution = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        layers += [convolution, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _fit(
    network: nn.Module,
    head: nn.Linear,
    images: NDArray[np.uint8],
    labels: Labels,
    steps: int,
    seed: int,
    device: torch.device,
    progress: bool,
) -> None:
    optimiser = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    random = np.random.default_rng(seed)
    for _ in trange(steps, desc="CNN of features", disable=None if progress else True):
        chosen = random.integers(0, len(images), BATCH)
        target = torch.from_numpy(np.asarray(labels[chosen])).to(device)
        logits = head(network(_tensor(images[chosen], device)))
        if target.ndim == 1:
            loss = F.cross_entropy(logits, target)
        else:
            loss = F.binary_cross_entropy_with_logits(logits, target.to(logits))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _tensor(images: Images, device: torch.device) -> Tensor:
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()
