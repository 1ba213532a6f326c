"""Probes: small heads fitted to frozen embeddings.

Each dimension is standardised first by the mean and standard deviation of the training set, because
the scale of an embedding is an accident of its method. The standardisation is then folded into the
first layer, so a head takes embeddings as the encoder outputs them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from repzoo.errors import InvalidInput
from repzoo.packages.config import ProbeSpec
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from repzoo_training.evaluation.inputs import (
    Embeddings,
    Labels,
    default_device,
    moments,
    on_device,
)

__all__ = ["L2", "MLP_BATCH", "MLP_LEARNING_RATE", "MLP_STEPS", "Head", "linear_probe", "mlp_probe"]

#: Weight of ½‖W‖², added to the summed loss of the linear probe: scikit-learn's C = 1.
L2 = 1.0

#: Adam's initial learning rate for the MLP probe. It falls to 0 along a cosine.
MLP_LEARNING_RATE = 1e-2
#: Embeddings per step of the MLP probe.
MLP_BATCH = 1024
#: Steps of the MLP probe, whatever the number of embeddings.
MLP_STEPS = 3000

#: With at least this many dimensions, the MLP probe gains from more than one CPU thread.
_THREADED_DIM = 256


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted probe, which a package stores as ``probes/TASK.KIND.onnx``.

    Attributes:
        spec: task, kind, classes and activation.
        module: maps embeddings float32 ``[N, D]`` to logits float32 ``[N, len(spec.classes)]``, on
            the CPU and without gradients.
    """

    spec: ProbeSpec
    module: nn.Sequential

    def predict(self, embeddings: Embeddings) -> NDArray[np.int64] | NDArray[np.bool_]:
        """Predict labels ``[N]``, or bool ``[N, A]`` if multi-label, of embeddings ``[N, D]``."""
        z, _ = on_device(embeddings, None, torch.device("cpu"))
        logits: Tensor = self.module(z)
        labels = logits > 0 if self.spec.multi_label else logits.argmax(dim=1)
        result: NDArray[np.int64] | NDArray[np.bool_] = labels.numpy()
        return result


def linear_probe(
    embeddings: Embeddings,
    labels: Labels,
    *,
    task: str = "class",
    classes: Sequence[str] = (),
    device: torch.device | str | None = None,
) -> Head:
    """Fit logistic regression to its optimum: multinomial, or one per label if multi-label.

        minimise  Σ_n loss(W x_n + b, y_n) + ½ ‖W‖²        x: standardised embeddings

    L-BFGS in float64 finds the optimum, which is unique and needs no seed.

    Args:
        embeddings: float ``[N, D]``.
        labels: int64 ``[N]`` in ``[0, len(classes))``, or bool ``[N, len(classes)]``.
        task: name of the task in the head's file name and in the API.
        classes: names of the classes; by default their numbers.
        device: where to compute; by default the GPU if there is one.

    Raises:
        InvalidInput: If shapes, labels and classes do not match.
    """
    z, y = on_device(embeddings, labels, default_device(device))
    spec = _spec(y, task, "linear", classes)
    mean, std = moments(z)
    x = (z.double() - mean) / std  # [N, D]
    weight = x.new_zeros(len(spec.classes), x.shape[1], requires_grad=True)
    bias = x.new_zeros(len(spec.classes), requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=1000,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        value = _loss(F.linear(x, weight, bias), y) + L2 / (2 * len(x)) * (weight**2).sum()
        value.backward()
        return value

    optimiser.step(objective)
    layer = _linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return _head(spec, [layer], mean, std)


def mlp_probe(
    embeddings: Embeddings,
    labels: Labels,
    *,
    task: str = "class",
    classes: Sequence[str] = (),
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Head:
    """Fit the MLP probe of the SimVAE authors: one hidden layer of D units with ReLU.

    The network is taken from their code (github.com/alicebizeul/simvae), but the training differs.
    Theirs uses raw embeddings in batches of 64 at a constant rate of 3e-4 for 200 epochs, and
    reports the best epoch on the test set. Here inputs are standardised, Adam's learning rate falls
    along a cosine, and the last step counts.

    Args:
        embeddings: float ``[N, D]``.
        labels: int64 ``[N]`` in ``[0, len(classes))``, or bool ``[N, len(classes)]``.
        task: name of the task in the head's file name and in the API.
        classes: names of the classes; by default their numbers.
        seed: decides the initial weights and the order of the batches. The global random state is
            neither read nor changed.
        device: where to compute; by default the GPU if there is one.
        progress: show a progress bar on a terminal.

    Raises:
        InvalidInput: If shapes, labels and classes do not match.
    """
    place = default_device(device)
    z, y = on_device(embeddings, labels, place)
    spec = _spec(y, task, "mlp", classes)
    mean, std = moments(z)
    x = ((z - mean) / std).float()  # [N, D]

    generator = torch.Generator().manual_seed(seed)
    dim = x.shape[1]
    layers = [_linear(dim, dim, generator), _linear(dim, len(spec.classes), generator)]
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1]).to(place)
    optimiser = torch.optim.Adam(network.parameters(), lr=MLP_LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, MLP_STEPS)
    batch = min(MLP_BATCH, len(x))
    order = torch.empty(0, dtype=torch.int64)
    with _threads_for(dim):
        for _ in trange(MLP_STEPS, desc="MLP probe", disable=None if progress else True):
            if len(order) < batch:  # the rest of an epoch does not fill a batch
                order = torch.randperm(len(x), generator=generator)
            chosen, order = order[:batch].to(place), order[batch:]
            optimiser.zero_grad()
            _loss(network(x[chosen]), y[chosen]).backward()
            optimiser.step()
            schedule.step()
    return _head(spec, layers, mean, std)


@contextmanager
def _threads_for(dim: int) -> Iterator[None]:
    """Use one thread for small layers.

    On shared cores, threads waiting for each other took 15 times as long as the work itself
    (64 dimensions, two threads on two busy cores).
    """
    threads = torch.get_num_threads()
    if dim < _THREADED_DIM:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _spec(y: Tensor, task: str, kind: str, classes: Sequence[str]) -> ProbeSpec:
    multi_label = y.ndim == 2
    count = y.shape[1] if multi_label else int(y.max()) + 1
    names = tuple(classes) or tuple(map(str, range(count)))
    if len(names) < 2:
        raise InvalidInput(f"task {task!r} has {len(names)} classes; a probe needs at least two")
    if len(names) < count or (multi_label and len(names) != count):
        raise InvalidInput(f"task {task!r} has {len(names)} classes, but labels for {count}")
    if not multi_label and int(y.min()) < 0:
        raise InvalidInput(f"task {task!r} has the label {int(y.min())}")
    return ProbeSpec(
        task=task,
        kind=kind,
        classes=names,
        activation="sigmoid" if multi_label else "softmax",
    )


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy over embeddings, summed over labels if multi-label."""
    if y.ndim == 1:
        return F.cross_entropy(logits, y)
    return F.binary_cross_entropy_with_logits(logits, y.to(logits), reduction="sum") / len(y)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None = None) -> nn.Linear:
    """Return a layer with torch's usual initial weights, or uninitialised without a generator."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    assert isinstance(layer, nn.Linear)
    if generator is not None:
        bound = 1 / math.sqrt(inputs)
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def _head(spec: ProbeSpec, layers: list[nn.Linear], mean: Tensor, std: Tensor) -> Head:
    """Fold the standardisation in: W (x − mean) / std + b = (W / std) x + (b − (W / std) mean)."""
    first = layers[0]
    with torch.no_grad():
        weight = first.weight.double().to(mean.device) / std  # [O, D]
        first.bias.copy_(first.bias.to(mean) - weight @ mean)
        first.weight.copy_(weight)
    steps: list[nn.Module] = [layers[0]]
    for layer in layers[1:]:
        steps += [nn.ReLU(), layer]
    return Head(spec, nn.Sequential(*steps).cpu().eval().requires_grad_(False))
