"""Train the networks, tails and calibration of an uncertainty head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from repzoo_training.randomness import generator
from repzoo_training.uncertainty.examples import Examples
from repzoo_training.uncertainty.head import RARE, TAIL_SHARE, UncertaintyHead

__all__ = ["calibrate", "learn"]

#: Passes over the queries, limited to this range of steps. More passes over a few thousand queries
#: only overfit.
PASSES = 10
STEPS = (300, 3000)
BATCH = 512
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2

#: Number of the random stream for weights. Lower numbers are used for views.
_WEIGHTS = 1000


def learn(
    head: UncertaintyHead, queries: Examples, images: Examples, seed: int, progress: bool
) -> None:
    """Set everything in a head except the mixture and the calibration.

    Args:
        head: a head whose mixture is set.
        queries: images and views to learn from.
        images: unchanged images, whose features define what is rare.
        seed: decides the weights and the batches.
        progress: show progress bars on a terminal.
    """
    draws = generator(seed, "uncertainty", _WEIGHTS)
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draws)
            nn.init.zeros_(layer.bias)
    embedding = torch.from_numpy(queries.outputs["embedding"])
    head.center[: head.dim] = embedding.mean(0)
    head.spread[: head.dim] = embedding.std(0).clamp_min(1e-6)
    thumbnail = torch.from_numpy(queries.thumbnail)

    def missed(rows: Tensor) -> Tensor:
        return (head.decode(embedding[rows]) - thumbnail[rows]).square().mean()

    _minimise(missed, head.decoder, len(queries), draws, "thumbnails", progress)

    features = _features(head, queries)
    head.center.copy_(features.mean(0))
    head.spread.copy_(features.std(0).clamp_min(1e-6))
    own, found = torch.from_numpy(queries.own), torch.from_numpy(queries.found)
    error = torch.from_numpy(queries.error)

    def surprise(rows: Tensor) -> Tensor:
        of_own, of_neighbour = head.logits(features[rows])
        if of_neighbour is None:
            return F.binary_cross_entropy_with_logits(of_own[:, 0], error[rows])
        return F.cross_entropy(of_own, own[rows]) + F.cross_entropy(of_neighbour, found[rows])

    _minimise(surprise, head, len(queries), draws, "uncertainty", progress)
    _set_tails(head, _features(head, images))


def calibrate(head: UncertaintyHead, held_out: Examples) -> None:
    """Set a and b by Platt scaling: minimise the cross-entropy of sigmoid(a · logit + b).

    The targets are Platt's, (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2). They keep b finite if the held-out
    images have few errors or none.
    """
    with torch.no_grad():
        logits = head.logit(_features(head, held_out)).double()
    error = torch.from_numpy(held_out.error)
    errors, count = float(error.sum()), len(error)
    high, low = (errors + 1) / (errors + 2), 1 / (count - errors + 2)
    target = (error * high + (1 - error) * low).double()
    scale = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(scale[0] * logits + scale[1], target)
        loss.backward()
        return loss

    optimizer.step(closure)
    head.calibration.copy_(scale.detach().float())


@torch.no_grad()
def _features(head: UncertaintyHead, examples: Examples) -> Tensor:
    tensors = {name: torch.from_numpy(values) for name, values in examples.outputs.items()}
    return head.features(torch.from_numpy(examples.thumbnail), **tensors)


def _set_tails(head: UncertaintyHead, features: Tensor) -> None:
    """Set the thresholds ℓ and the mean excesses β."""
    for place, rare in enumerate(features[:, -RARE:].unbind(1)):
        threshold = rare.quantile(1 - TAIL_SHARE)
        beyond = (rare - threshold)[rare > threshold]
        excess = beyond.mean() if len(beyond) else rare.std()
        head.tails[place] = torch.stack([threshold, excess.clamp_min(1e-6)])


def _minimise(
    loss: Callable[[Tensor], Tensor],
    module: nn.Module,
    count: int,
    draws: torch.Generator,
    name: str,
    progress: bool,
) -> None:
    """Minimise a loss over rows of ``count`` queries by AdamW with a cosine schedule."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = min(max(STEPS[0], PASSES * count // BATCH), STEPS[1])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc=name, leave=False, disable=None if progress else True):
        value = loss(torch.randint(count, (BATCH,), generator=draws))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
