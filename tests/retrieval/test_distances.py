"""The mathematics of retrieval, against Monte Carlo and explicit densities."""

from __future__ import annotations

import numpy as np
import pytest
from repzoo_client.retrieval import distances
from scipy import integrate, stats

RANDOM = np.random.default_rng(0)
MEANS = RANDOM.standard_normal((2, 3))
VARIANCES = RANDOM.uniform(0.05, 2, (2, 3))


def samples(number: int, count: int = 400_000) -> np.ndarray:
    noise = np.random.default_rng(number).standard_normal((count, 3))
    return MEANS[number] + noise * np.sqrt(VARIANCES[number])


def test_the_sampled_distance_is_the_mean_of_samples() -> None:
    expected = np.square(samples(0) - samples(1)).sum(1).mean()
    found = distances.closed_form_sampled(MEANS[0], VARIANCES[0], MEANS[1], VARIANCES[1])
    assert found == pytest.approx(expected, rel=0.01)


def test_the_wasserstein_distance_is_that_of_the_best_coupling() -> None:
    # In one dimension the best coupling pairs the quantiles; dimensions are independent.
    paired = np.square(np.sort(samples(0), axis=0) - np.sort(samples(1), axis=0)).mean(0).sum()
    found = distances.wasserstein(MEANS[0], VARIANCES[0], MEANS[1], VARIANCES[1])
    assert found == pytest.approx(paired, rel=0.01)
    assert found < distances.closed_form_sampled(MEANS[0], VARIANCES[0], MEANS[1], VARIANCES[1])


def test_the_mutual_likelihood_is_the_integral_of_both_densities() -> None:
    densities = [
        [stats.norm(m, np.sqrt(v)) for m, v in zip(*side, strict=True)]
        for side in zip(MEANS, VARIANCES, strict=True)
    ]
    integrals = [
        integrate.quad(lambda z, a=a, b=b: a.pdf(z) * b.pdf(z), -20, 20)[0]
        for a, b in zip(*densities, strict=True)
    ]
    found = distances.mutual_log_likelihood(MEANS[0], VARIANCES[0], MEANS[1], VARIANCES[1])
    assert found == pytest.approx(np.log(integrals).sum(), rel=1e-6)


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_the_content_posterior_is_bayes_rule(prior: distances.ContentPrior) -> None:
    # p(ψ|x) = ∫ p(ψ|z) q(z|x) dz with p(ψ|z) ∝ N(z; ψ, s²) p(ψ), on a grid.
    mean, variance, scatter = 0.7, 0.2, 0.4
    grid = np.linspace(-12, 12, 2401)
    psi, z = grid[:, None], grid[None, :]
    joint = stats.norm.pdf(z, psi, np.sqrt(scatter))
    if prior == "normal":
        joint = joint * stats.norm.pdf(psi)
    given_z = joint / joint.sum(0)
    density = given_z @ stats.norm.pdf(grid, mean, np.sqrt(variance))
    density /= density.sum()
    expected_mean = (density * grid).sum()
    expected_variance = (density * (grid - expected_mean) ** 2).sum()
    found = distances.content_posterior([mean], [variance], scatter, prior)
    assert found[0][0] == pytest.approx(expected_mean, rel=1e-4)
    assert found[1][0] == pytest.approx(expected_variance, rel=1e-4)


def test_everything_broadcasts() -> None:
    queries, documents = RANDOM.standard_normal((4, 1, 3)), RANDOM.standard_normal((5, 3))
    found = distances.wasserstein(queries, np.ones((4, 1, 3)), documents, np.zeros((5, 3)))
    assert found.shape == (4, 5)
    assert found == pytest.approx(np.square(queries - documents).sum(2) + 3)


def test_what_is_not_to_be_trusted_is_farther() -> None:
    found = distances.trusted([2.0, 2.0, 2.0], [0.0, 0.5, np.nan], weight=4)
    assert found.tolist() == [2, 6, 10]
    assert distances.trusted([2.0], [0.5], weight=0) == [2]
