"""Collapse of the representation, detected while a run trains.

An encoder collapses when its embeddings no longer distinguish images. Collapse is complete if all
images are mapped to one point, and dimensional if they only fill a line or a plane of the D
dimensions. These statistics of a fixed sample of embeddings Z ``[N, D]`` with covariance Σ are
recorded:

    spectrum       singular values of Σ
    RankMe         exp H(p),  p_k = σ_k(Z) / Σ_j σ_j(Z)            (arXiv 2210.02885)
    effective rank RankMe of Z minus its mean, because a mean does not distinguish images
    entropy        ½ log det 2πe (Σ + εI), in nats
    correlation    mean |off-diagonal correlation|
    std            of each dimension
    spread         (tr Σ / E ‖z‖²)^½, in [0, 1]: distances between images, relative to the origin
    signal         (tr Σ / (tr Σ + E Σ_d σ_d²))^½ of a posterior with variances σ_d²; else 1

**When a run counts as collapsed.** Both thresholds are independent of scale, because losses on
normalised or whitened embeddings do not determine the scale of an embedding.

* *complete*: spread below ``POINT``, 0.01 (untrained ResNets start at 0.03 to 0.2, untrained MLPs
  at 0.4), or signal below ``NOISE``, 0.05. Posterior means that differ by less than a twentieth of
  their own noise carry less than D/800 nats. This includes a VAE whose posterior equals its prior
  (MNIST, β = 30: 0.035). One active dimension of 64 has a signal of 0.13, so a VAE with unused
  dimensions, which is normal, does not count as collapsed.
* *dimensional*: effective rank below 1 + ``SHARE`` · (min(D, ``WIDE``) − 1), which is 1.45 for 10
  dimensions, and 4.15 for 64 or more. Normal encoders are far above: untrained encoders of MNIST or
  CIFAR-10 use 5 to 10 of 10 dimensions and 14 to 57 of 64, and a β-VAE with half of its dimensions
  unused uses 5. RankMe itself would not be suitable: the mean embedding of an untrained ResNet
  alone reduces it to 1.4 of 10.

The condition must hold at two consecutive observations, because it can hold briefly early in a run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from repzoo.files import write_atomically
from torch import Tensor, nn
from tqdm import tqdm

from repzoo_training.objectives import Family, Objective, find_method
from repzoo_training.randomness import generator
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.run import Run

__all__ = [
    "CollapseMonitor",
    "Statistics",
    "correlation",
    "diagnose",
    "effective_rank",
    "entropy",
    "measure",
    "rankme",
    "signal",
    "spectrum",
    "spread",
    "std",
]

Collapse: TypeAlias = Literal["complete", "dimensional"]

#: The spread below which all images are considered to be at one point.
POINT = 0.01
#: The signal below which all images are considered to have the same posterior.
NOISE = 0.05
#: The share of the D − 1 dimensions beyond the first that must be used.
SHARE = 0.05
#: Dimensions beyond this number do not need to be used.
WIDE = 64
#: ε of the entropy: a constant dimension counts as one with a standard deviation of 1e-3.
EPSILON = 1e-6

#: The number of observations per run, and of images per observation, if the run is long enough.
OBSERVATIONS = 40
SAMPLE = 512
#: Observed images per trained view. A forward pass takes about a third of a training step, so this
#: costs 3 % of the time.
AFFORDABLE = 0.09
#: The minimum for short runs.
LEAST_OBSERVATIONS = 4
LEAST_SAMPLE = 128

#: What to change when the embeddings of a family of methods collapse.
ADVICE: dict[Family, str] = {
    "generative": "a lower weight of the KL or prior, a heavier likelihood, a slower start",
    "contrastive": "more images per step, another temperature, a lower learning rate",
    "self-distillation": "a predictor with batch normalisation, a slower target, "
    "a lower learning rate",
    "information maximisation": "heavier variance and covariance terms, more images per step, "
    "a lower learning rate",
    "predictive": "another temperature, a lower learning rate",
    "clustering": "centring or balanced assignments, another temperature, a lower learning rate",
    "lower bound": "nothing: it does not train",
}


@dataclass(frozen=True)
class Statistics:
    """The statistics of one observation; see the module docstring."""

    spectrum: tuple[float, ...]
    rankme: float
    effective_rank: float
    entropy: float
    correlation: float
    std_min: float
    std_mean: float
    spread: float
    signal: float
    samples: int
    dim: int


class CollapseMonitor:
    """Observes the encoder of a run, warns once per collapse, and draws ``collapse.png``.

    It uses none of the run's random streams, and does not change the networks.

    Args:
        run: The run. The caller writes observations to its ``metrics.jsonl``, where a resumed run
            finds whether it had collapsed before.
        recipe: The recipe of the run.
        images: uint8 ``[N, C, H, W]``, the whole data set.
        report_every: The number of steps between lines of ``metrics.jsonl``.
    """

    def __init__(self, run: Run, recipe: Recipe, images: Tensor, report_every: int) -> None:
        self.run = run
        self.recipe = recipe
        views = recipe.steps * recipe.views_per_step
        size = _clamp(AFFORDABLE * views / OBSERVATIONS, LEAST_SAMPLE, SAMPLE)
        count = _clamp(AFFORDABLE * views / size, LEAST_OBSERVATIONS, OBSERVATIONS)
        self.every = report_every * max(1, math.ceil(recipe.steps / report_every / count))
        order = torch.randperm(len(images), generator=generator(recipe.seed, "figures", 1))
        chosen = images[order[:size].to(images.device)]
        self.sample = recipe.augmentation.finish(chosen.to(torch.float32) / 255)  # [N, C, H, W]
        # A resumed run remembers whether it had collapsed.
        last = next(reversed(run.observations()), {"suspect": False, "collapsed": False})
        self.suspect, self.collapsed = bool(last["suspect"]), bool(last["collapsed"])

    def observe(self, objective: Objective, step: int) -> dict[str, float | list[float]]:
        """Return the statistics for the line of ``step`` in ``metrics.jsonl``.

        The result is empty between observations. Prints a warning to stderr when a
        collapse is first detected.
        """
        if step % self.every and step != self.recipe.steps:
            return {}
        with _evaluating(objective.encoder), torch.no_grad():
            outputs = objective.encoder(self.sample)
        z, noise = outputs if isinstance(outputs, tuple) else (outputs, None)
        if not z.isfinite().all():  # the trainer reports this
            return {}
        seen = measure(z, None if noise is None else noise.exp())
        kind = diagnose(seen)
        collapsed = kind is not None and self.suspect
        if kind is not None and collapsed and not self.collapsed:
            tqdm.write(self._warning(kind, seen, step), file=sys.stderr)
        self.suspect, self.collapsed = kind is not None, collapsed
        return {
            "spectrum": [float(f"{value:.5g}") for value in seen.spectrum],
            "rankme": seen.rankme,
            "effective_rank": seen.effective_rank,
            "embedding_entropy": seen.entropy,
            "correlation": seen.correlation,
            "std_min": seen.std_min,
            "std_mean": seen.std_mean,
            "spread": seen.spread,
            "signal": seen.signal,
            "suspect": self.suspect,
            "collapsed": self.collapsed,
        }

    def draw(self) -> None:
        """Redraw the plots of ``metrics.jsonl``."""
        # matplotlib takes a second to import
        from repzoo_training.watching.plots import collapse_figure, curves_figure

        lines = self.run.read_metrics()
        reports = [line for line in lines if "loss" in line]
        if reports:
            curves = curves_figure(reports, self.recipe.name)
            write_atomically(self.run.figures / "curves.png", curves)
        observations = [line for line in lines if "spectrum" in line]
        if observations:
            picture = collapse_figure(observations, self.recipe.latent_dim, self.recipe.name)
            write_atomically(self.run.figures / "collapse.png", picture)

    def _warning(self, kind: Collapse, seen: Statistics, step: int) -> str:
        if kind == "complete":
            what = (
                "all images are embedded at nearly one point (they differ by "
                f"{100 * seen.spread:.2g} % of their distance to the origin"
                + (f", {100 * seen.signal:.2g} % of their noise)" if seen.signal < 1 else ")")
            )
        else:
            what = (
                f"embeddings use {seen.effective_rank:.1f} of {seen.dim} dimensions "
                f"(effective rank; expected at least {_least_rank(seen):.2f})"
            )
        advice = ADVICE[find_method(self.recipe.method).family]
        return (
            f"warning: {self.recipe.name} has collapsed at step {step:,} of "
            f"{self.recipe.steps:,}: {what}. Try {advice}. See {self.run.figures}/collapse.png."
        )


def diagnose(seen: Statistics) -> Collapse | None:
    """Return the kind of collapse in an observation, or None; see the module docstring."""
    if seen.spread < POINT or seen.signal < NOISE:
        return "complete"
    return "dimensional" if seen.effective_rank < _least_rank(seen) else None


def measure(z: Tensor, variance: Tensor | None = None) -> Statistics:
    """Compute all statistics of embeddings.

    Args:
        z: float ``[N, D]``, N at least 2; the mean of a posterior.
        variance: The variance of a posterior, ``[N, D]``.
    """
    z = z.detach().double().cpu()
    noise = None if variance is None else variance.detach().double().cpu()
    deviations = std(z)  # [D]
    return Statistics(
        spectrum=tuple(spectrum(z).tolist()),
        rankme=rankme(z),
        effective_rank=effective_rank(z),
        entropy=entropy(z),
        correlation=correlation(z),
        std_min=float(deviations.min()),
        std_mean=float(deviations.mean()),
        spread=spread(z),
        signal=1.0 if noise is None else signal(z, noise),
        samples=len(z),
        dim=z.shape[1],
    )


def spectrum(z: Tensor) -> Tensor:
    """Return the singular values of the covariance of ``z [N, D]``: ``[min(N, D)]``, descending.

    Here and in the whole module, the covariance is divided by N.
    """
    singular: Tensor = torch.linalg.svdvals(z - z.mean(0))
    return singular.square() / len(z)


def rankme(z: Tensor) -> float:
    """Return RankMe of ``z [N, D]``, in [1, min(N, D)]; 0 if all embeddings are 0.

    arXiv 2210.02885, eq. 1 and 2.
    """
    return _exp_entropy(torch.linalg.svdvals(z))


def effective_rank(z: Tensor) -> float:
    """Return RankMe of ``z [N, D]`` minus its mean; 0 if all embeddings are equal."""
    centred = z - z.mean(0)
    if spread(z) < 1e-9:  # only rounding errors are left
        return 0.0
    return _exp_entropy(torch.linalg.svdvals(centred))


def entropy(z: Tensor, epsilon: float = EPSILON) -> float:
    """Return ½ log det 2πe (Σ + εI), the entropy of a Gaussian with the covariance of ``z [N, D]``.

    In nats.
    """
    D = z.shape[1]  # noqa: N806
    values = torch.zeros(D, dtype=z.dtype)
    found = spectrum(z)
    values[: len(found)] = found
    return float(0.5 * torch.log(2 * math.pi * math.e * (values + epsilon)).sum())


def correlation(z: Tensor) -> float:
    """Return the mean absolute correlation of different dimensions of ``z [N, D]``, in [0, 1].

    Constant dimensions are ignored. If fewer than two dimensions are left, the result is 0.
    """
    centred = z - z.mean(0)
    deviation = std(z)
    varying = deviation > 1e-9 * z.abs().amax(0)
    unit = centred[:, varying] / deviation[varying]
    D = unit.shape[1]  # noqa: N806
    if D < 2:
        return 0.0
    matrix = (unit.T @ unit / len(z)).abs()  # [D, D], 1 on the diagonal
    return float((matrix.sum() - matrix.diagonal().sum()) / (D * (D - 1)))


def std(z: Tensor) -> Tensor:
    """Return the standard deviation of each dimension of ``z [N, D]``: ``[D]``, divided by N."""
    return z.std(0, correction=0)


def spread(z: Tensor) -> float:
    """Return (tr Σ / E ‖z‖²)^½ of ``z [N, D]``, in [0, 1]; 0 if all embeddings are 0."""
    return _share(std(z).square().sum(), z.square().sum(1).mean())


def signal(mean: Tensor, variance: Tensor) -> float:
    """Return (tr Σ / (tr Σ + E Σ_d σ_d²))^½, in [0, 1], of posteriors: ``[N, D]`` twice."""
    between = std(mean).square().sum()
    return _share(between, between + variance.sum(1).mean())


def _share(part: Tensor, whole: Tensor) -> float:
    return float((part / whole).sqrt()) if whole > 0 else 0.0


def _exp_entropy(values: Tensor) -> float:
    """Return exp of the entropy of ``values`` divided by their sum."""
    total = values.sum()
    if not total > 0:
        return 0.0
    p = values / total
    return float(torch.exp(-torch.xlogy(p, p).sum()))


def _least_rank(seen: Statistics) -> float:
    # N points span at most N − 1 dimensions.
    return 1 + SHARE * (min(seen.dim, WIDE, seen.samples - 1) - 1)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, in which batch normalisation does not learn; restore all modes."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _clamp(value: float, least: int, most: int) -> int:
    return max(least, min(most, int(value)))
