"""Collapse, watched while a run trains.

An encoder collapses when its embeddings stop telling images apart: completely, where all images go
to one point, or dimensionally, where they fill only a line or a plane of the D dimensions. What is
watched, of a fixed sample of embeddings Z ``[N, D]`` with covariance Σ:

    spectrum       singular values of Σ
    RankMe         exp H(p),  p_k = σ_k(Z) / Σ_j σ_j(Z)            (arXiv 2210.02885)
    effective rank the same of Z minus its mean, for a mean tells no images apart
    entropy        ½ log det 2πe (Σ + εI), in nats
    correlation    mean |off-diagonal correlation|
    std            of each dimension
    spread         (tr Σ / E ‖z‖²)^½, in [0, 1]: distances between images, of that to the origin
    signal         (tr Σ / (tr Σ + E Σ_d σ_d²))^½ of a posterior with variances σ_d²; else 1

**When a run counts as collapsed.** Both thresholds are free of scale, because losses on normalised
or whitened embeddings leave the scale of an embedding to chance.

* *complete*: spread below ``POINT``, a hundredth (untrained ResNets start at 0.03 to 0.2, untrained
  MLPs at 0.4), or signal below ``NOISE``, a twentieth. Posterior means that differ by less than a
  twentieth of their own noise hold less than D/800 nats; a VAE whose posterior equals its prior
  ends here (MNIST, β = 30: 0.035). One active dimension of 64 has a signal of 0.13, so that a VAE
  which leaves dimensions unused, as is normal, does not.
* *dimensional*: effective rank below 1 + ``SHARE`` · (min(D, ``WIDE``) − 1): below 1.45 of 10
  dimensions, below 4.15 of 64 and more. What is natural ends far above: untrained encoders of MNIST
  or CIFAR-10 fill 5 to 10 of 10 and 14 to 57 of 64, a β-VAE with half of its dimensions unused 5.
  RankMe itself would not do: the mean of an untrained ResNet alone brings it down to 1.4 of 10.

It has to hold at two observations in a row, because early in a run it may hold for a moment.
"""

from __future__ import annotations

import math
import sys
import time
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

#: Spread below which all images are at one point.
POINT = 0.01
#: Signal below which all images have the same posterior.
NOISE = 0.05
#: Of D − 1 dimensions beyond the first, the share that must be filled.
SHARE = 0.05
#: Dimensions beyond this number need not be filled.
WIDE = 64
#: ε of the entropy: a dimension that does not vary counts as one with a std of 1e-3.
EPSILON = 1e-6

#: Observations in a run, and images in each, where a run is long enough to afford them.
OBSERVATIONS = 40
SAMPLE = 512
#: A forward pass is about a third of a training step, so these many observed images for each view
#: trained on cost 3 %.
AFFORDABLE = 0.09
#: Even short runs are observed so often, on so many images.
LEAST_OBSERVATIONS = 4
LEAST_SAMPLE = 128
#: Share of a run's time that drawing may take, and seconds that it is expected to at first.
DRAWING = 0.03
FIRST_DRAWING = 0.5

#: What keeps a family's embeddings apart, to be looked at when they are not.
ADVICE: dict[Family, str] = {
    "generative": "a lower weight of the KL or prior, a heavier likelihood, a slower start",
    "contrastive": "more images a step, another temperature, a lower learning rate",
    "self-distillation": "a predictor with batch normalisation, a slower target, "
    "a lower learning rate",
    "information maximisation": "heavier variance and covariance terms, more images a step, "
    "a lower learning rate",
    "predictive": "another temperature, a lower learning rate",
    "clustering": "centring or balanced assignments, another temperature, a lower learning rate",
    "lower bound": "nothing: it does not train",
}


@dataclass(frozen=True)
class Statistics:
    """All of one observation; see the module for what each is."""

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
    """Observes the encoder of a run, warns once for each collapse, draws ``collapse.png``.

    It draws nothing from the run's randomness and leaves the networks as they were.

    Args:
        run: whose ``metrics.jsonl`` the caller writes observations to; it is where a resumed run
            knows from that it had collapsed before.
        recipe: what is trained.
        images: uint8 ``[N, C, H, W]``, all of the data set.
        report_every: steps between the lines of ``metrics.jsonl``.
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
        self._drawn, self._cost = time.monotonic(), FIRST_DRAWING

    def observe(self, objective: Objective, step: int) -> dict[str, float | list[float]]:
        """What to add to the line of ``step`` in ``metrics.jsonl``; nothing between observations.

        Warns on stderr when the run is found to have collapsed and had not before.
        """
        if step % self.every and step != self.recipe.steps:
            return {}
        with _evaluating(objective.encoder), torch.no_grad():
            outputs = objective.encoder(self.sample)
        z, noise = outputs if isinstance(outputs, tuple) else (outputs, None)
        if not z.isfinite().all():  # the trainer says so
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

    def draw(self, step: int) -> None:
        """Redraw ``figures/collapse.png`` from ``metrics.jsonl``, at the end and as time allows."""
        now = time.monotonic()
        if step != self.recipe.steps and now - self._drawn < self._cost / DRAWING:
            return
        # matplotlib takes a second to import
        from repzoo_training.watching.plots import collapse_figure

        observations = self.run.observations()
        if not observations:
            return
        picture = collapse_figure(observations, self.recipe.latent_dim, self.recipe.name)
        write_atomically(self.run.figures / "collapse.png", picture)
        self._drawn = time.monotonic()
        self._cost = self._drawn - now

    def _warning(self, kind: Collapse, seen: Statistics, step: int) -> str:
        if kind == "complete":
            what = (
                "all images embed to nearly one point (they differ by "
                f"{100 * seen.spread:.2g} % of their distance to the origin"
                + (f", {100 * seen.signal:.2g} % of their noise)" if seen.signal < 1 else ")")
            )
        else:
            what = (
                f"embeddings fill {seen.effective_rank:.1f} of {seen.dim} dimensions "
                f"(effective rank; less than {_least_rank(seen):.2f})"
            )
        advice = ADVICE[find_method(self.recipe.method).family]
        return (
            f"warning: {self.recipe.name} has collapsed at step {step:,} of "
            f"{self.recipe.steps:,}: {what}. Try {advice}. See {self.run.figures}/collapse.png"
        )


def diagnose(seen: Statistics) -> Collapse | None:
    """Which kind of collapse an observation shows, if any; thresholds as in the module."""
    if seen.spread < POINT or seen.signal < NOISE:
        return "complete"
    return "dimensional" if seen.effective_rank < _least_rank(seen) else None


def measure(z: Tensor, variance: Tensor | None = None) -> Statistics:
    """All statistics of embeddings.

    Args:
        z: float ``[N, D]``, N at least 2; of a posterior its mean.
        variance: of a posterior, ``[N, D]``.
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
    """Singular values of the covariance of ``z [N, D]``, largest first: ``[min(N, D)]``.

    The covariance is that of the sample, divided by N, as everywhere here.
    """
    singular: Tensor = torch.linalg.svdvals(z - z.mean(0))
    return singular.square() / len(z)


def rankme(z: Tensor) -> float:
    """RankMe of ``z [N, D]``, in [1, min(N, D)]: arXiv 2210.02885, eq. 1 and 2.

    0 where all embeddings are 0.
    """
    return _exp_entropy(torch.linalg.svdvals(z))


def effective_rank(z: Tensor) -> float:
    """RankMe of ``z [N, D]`` minus its mean; 0 where all embeddings are equal."""
    centred = z - z.mean(0)
    if spread(z) < 1e-9:  # nothing but rounding is left
        return 0.0
    return _exp_entropy(torch.linalg.svdvals(centred))


def entropy(z: Tensor, epsilon: float = EPSILON) -> float:
    """Of the Gaussian with the covariance of ``z [N, D]``: ½ log det 2πe (Σ + εI), in nats."""
    D = z.shape[1]  # noqa: N806
    values = torch.zeros(D, dtype=z.dtype)
    found = spectrum(z)
    values[: len(found)] = found
    return float(0.5 * torch.log(2 * math.pi * math.e * (values + epsilon)).sum())


def correlation(z: Tensor) -> float:
    """Mean absolute correlation of two different dimensions of ``z [N, D]``, in [0, 1].

    Dimensions that do not vary correlate with nothing and are left out; 0 if fewer than two are
    left.
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
    """Standard deviation of each dimension of ``z [N, D]``: ``[D]``, divided by N."""
    return z.std(0, correction=0)


def spread(z: Tensor) -> float:
    """(tr Σ / E ‖z‖²)^½ of ``z [N, D]``, in [0, 1]; 0 where all embeddings are 0."""
    return _share(std(z).square().sum(), z.square().sum(1).mean())


def signal(mean: Tensor, variance: Tensor) -> float:
    """(tr Σ / (tr Σ + E Σ_d σ_d²))^½ in [0, 1] of posteriors: ``[N, D]`` twice."""
    between = std(mean).square().sum()
    return _share(between, between + variance.sum(1).mean())


def _share(part: Tensor, whole: Tensor) -> float:
    return float((part / whole).sqrt()) if whole > 0 else 0.0


def _exp_entropy(values: Tensor) -> float:
    """exp of the entropy of ``values`` divided by their sum."""
    total = values.sum()
    if not total > 0:
        return 0.0
    p = values / total
    return float(torch.exp(-torch.xlogy(p, p).sum()))


def _least_rank(seen: Statistics) -> float:
    # N points lie in N − 1 dimensions whatever the encoder does.
    return 1 + SHARE * (min(seen.dim, WIDE, seen.samples - 1) - 1)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, so that batch normalisation learns nothing; every mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _clamp(value: float, least: int, most: int) -> int:
    return max(least, min(most, int(value)))
