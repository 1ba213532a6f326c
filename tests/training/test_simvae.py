"""SimVAE's terms: comparison with brute force, Monte Carlo and finite differences, in float64."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from repzoo.runtime.contents import read_view_model
from repzoo_training.networks import NetworkSpec, build
from repzoo_training.objectives import Batch
from repzoo_training.objectives.likelihoods import Bernoulli, Gaussian, OptimalGaussian, whiten
from repzoo_training.objectives.posterior import gaussian_log_prob, kl_to_standard_normal
from repzoo_training.objectives.simvae import (
    ContentPrior,
    SimVAE,
    expected_joint_log_prior,
    expected_scatter,
    joint_log_prior,
)
from repzoo_training.objectives.vae import VAE
from torch import Tensor

PRIORS: tuple[ContentPrior, ...] = ("uniform", "normal")


def batch(views: Tensor, seed: int) -> Batch:
    return Batch(views, torch.arange(len(views)), torch.Generator().manual_seed(seed))


def posteriors(B: int, J: int, D: int) -> tuple[Tensor, Tensor]:  # noqa: N803
    random = torch.Generator().manual_seed(J * D)
    mean = torch.randn(B, J, D, generator=random, dtype=torch.float64)
    variance = torch.rand(B, J, D, generator=random, dtype=torch.float64) + 0.1
    return mean, variance


def brute_force(z: Tensor, scatter: float, content_variance: float) -> Tensor:
    """Σ_d log N(z_d; 0, s² I + τ² 11ᵀ), a Gaussian over J views: ``[B, J, D]`` -> ``[B]``."""
    J = z.shape[1]  # noqa: N806
    covariance = scatter * torch.eye(J, dtype=z.dtype) + content_variance
    joint = torch.distributions.MultivariateNormal(torch.zeros(J, dtype=z.dtype), covariance)
    return joint.log_prob(z.mT).sum(1)


@pytest.mark.parametrize("J", [1, 2, 3, 10])
@pytest.mark.parametrize("scatter", [0.15, 2.0])
def test_normal_content_prior_equals_a_j_by_j_gaussian(J: int, scatter: float) -> None:  # noqa: N803
    z, _ = posteriors(4, J, 5)
    ours = joint_log_prior(z, scatter, "normal")
    torch.testing.assert_close(ours, brute_force(z, scatter, 1.0))


@pytest.mark.parametrize("J", [2, 3, 10])
@pytest.mark.parametrize("scatter", [0.15, 2.0])
def test_uniform_content_prior_is_the_limit_of_wide_gaussians(J: int, scatter: float) -> None:  # noqa: N803
    # The density is 1 instead of (2πτ²)^(−D/2), in the limit of large τ.
    z, _ = posteriors(4, J, 5)
    wide = 1e6
    limit = brute_force(z, scatter, wide) + 5 / 2 * math.log(2 * math.pi * wide)
    torch.testing.assert_close(joint_log_prior(z, scatter, "uniform"), limit, atol=1e-4, rtol=1e-6)


def test_uniform_content_prior_by_numerical_integration() -> None:
    z = np.array([0.3, -0.5, 1.1])
    content = np.linspace(-12, 12, 200_001)
    density = np.exp(-((z[:, None] - content) ** 2) / (2 * 0.15)) / math.sqrt(2 * math.pi * 0.15)
    integral = np.trapezoid(density.prod(0), content)
    ours = joint_log_prior(torch.from_numpy(z).view(1, 3, 1), 0.15, "uniform")
    assert ours.item() == pytest.approx(math.log(integral), abs=1e-9)


def test_one_view_under_the_normal_prior_is_a_wider_gaussian() -> None:
    z, _ = posteriors(4, 1, 5)
    std = math.sqrt(1.15)
    expected = torch.distributions.Normal(0.0, std).log_prob(z).sum((1, 2))
    torch.testing.assert_close(joint_log_prior(z, 0.15, "normal"), expected)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("J", [2, 5])
def test_closed_form_equals_a_monte_carlo_estimate(prior: ContentPrior, J: int) -> None:  # noqa: N803
    mean, variance = posteriors(1, J, 3)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(100_000, J, 3, generator=random, dtype=torch.float64)
    draws = joint_log_prior(mean + variance.sqrt() * noise, 0.5, prior)
    standard_error = draws.std().item() / math.sqrt(len(draws))
    exact = expected_joint_log_prior(mean, variance, 0.5, prior).item()
    assert abs(draws.mean().item() - exact) < 4 * standard_error
    # The estimate is precise enough to reveal a missing term.
    assert standard_error < 0.02 * expected_scatter(mean, variance).item()


def test_expected_scatter_by_its_definition() -> None:
    mean, variance = posteriors(1, 4, 3)
    random = torch.Generator().manual_seed(0)
    z = mean + variance.sqrt() * torch.randn(100_000, 4, 3, generator=random, dtype=torch.float64)
    scatter = (z - z.mean(1, keepdim=True)).square().sum((1, 2))
    error = scatter.std().item() / math.sqrt(len(scatter))
    assert abs(scatter.mean().item() - expected_scatter(mean, variance).item()) < 4 * error


@pytest.mark.parametrize("prior", PRIORS)
def test_views_may_be_permuted(prior: ContentPrior) -> None:
    mean, variance = posteriors(3, 4, 5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        expected_joint_log_prior(mean[:, order], variance[:, order], 0.15, prior),
        expected_joint_log_prior(mean, variance, 0.15, prior),
    )


def test_only_the_normal_prior_sees_where_the_content_is() -> None:
    z, _ = posteriors(3, 4, 5)
    torch.testing.assert_close(
        joint_log_prior(z + 7, 0.15, "uniform"), joint_log_prior(z, 0.15, "uniform")
    )
    assert (joint_log_prior(z + 7, 0.15, "normal") < joint_log_prior(z, 0.15, "normal")).all()


@pytest.mark.parametrize("prior", PRIORS)
def test_gradients_by_finite_differences(prior: ContentPrior) -> None:
    mean, variance = (t.requires_grad_() for t in posteriors(2, 3, 4))

    def expected(m: Tensor, v: Tensor) -> Tensor:
        return expected_joint_log_prior(m, v, 0.15, prior)

    assert torch.autograd.gradcheck(expected, (mean, variance))
    assert torch.autograd.gradcheck(lambda z: joint_log_prior(z, 0.15, prior), (mean,))


def test_kl_against_torch_distributions() -> None:
    mean, variance = posteriors(6, 1, 5)
    q = torch.distributions.Normal(mean[:, 0], variance[:, 0].sqrt())
    p = torch.distributions.Normal(torch.zeros_like(mean[:, 0]), 1.0)
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean[:, 0], variance[:, 0].log()), expected)


def test_likelihoods_against_torch_distributions() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 4, 4, generator=random, dtype=torch.float64)
    logits = torch.randn(3, 1, 4, 4, generator=random, dtype=torch.float64)
    binary = (x > 0.5).double()
    bernoulli = torch.distributions.Bernoulli(logits=logits).log_prob(binary).sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli().log_prob(binary, logits), bernoulli)
    torch.testing.assert_close(Bernoulli(99.5).log_prob(binary, logits), 99.5 * bernoulli)
    mean = torch.sigmoid(logits)
    normal = torch.distributions.Normal(mean, math.exp(-2.3)).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(Gaussian(-4.6).log_prob(x, logits), normal)
    std = (x - mean).square().mean().sqrt()
    optimal = torch.distributions.Normal(mean, std).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(OptimalGaussian().log_prob(x, logits), optimal)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_whitened_gaussian_is_a_normal_with_the_covariance_of_its_map(exponent: float) -> None:
    x, logits = torch.rand(3, 2, 4, 6), torch.randn(3, 2, 4, 6)
    # A, column by column; one channel at a time, since channels do not mix.
    basis = torch.eye(24).view(24, 1, 4, 6)
    A = whiten(basis, exponent).flatten(1).mT.double()  # noqa: N806  [24, 24]
    covariance = 0.1 * torch.linalg.inv(A.mT @ A)
    normal = torch.distributions.MultivariateNormal(torch.zeros(24).double(), covariance)
    error = (x - torch.sigmoid(logits)).double().flatten(2)  # [3, 2, 24]
    expected = normal.log_prob(error).sum(1).float()
    torch.testing.assert_close(
        Gaussian(math.log(0.1), exponent).log_prob(x, logits), expected, rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(torch.linalg.slogdet(A)[1].item(), 0.0, rtol=0, atol=1e-5)


def test_no_variance_beats_the_optimal_one() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 4, 4, generator=random)
    logits = torch.randn(3, 1, 4, 4, generator=random)
    best = OptimalGaussian().log_prob(x, logits).sum()
    for log_variance in np.linspace(-6, 2, 33):
        assert Gaussian(float(log_variance)).log_prob(x, logits).sum() <= best


@pytest.mark.parametrize("prior", PRIORS)
def test_sampled_and_closed_form_losses_have_one_expectation(prior: ContentPrior) -> None:
    torch.manual_seed(0)
    encoder, decoder = build(NetworkSpec(widths=(16, 8)), (1, 4, 4), 3)
    views = torch.rand(2, 3, 1, 4, 4)

    def losses(terms: str) -> Tensor:
        objective = SimVAE(
            encoder,
            decoder,
            Gaussian(0.0),
            prior=prior,
            terms=terms,
            scatter=0.5,  # type: ignore[arg-type]
        )
        with torch.no_grad():
            draws = [objective(batch(views, seed))["loss"] for seed in range(600)]
        return torch.stack(draws).double()

    closed, sampled = losses("closed_form"), losses("sampled")
    difference = sampled - closed
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(difference))
    assert sampled.std() > closed.std()  # which is why the closed form is the default


def test_the_loss_is_the_negative_elbo() -> None:
    """With z drawn by hand: −(1/BJ) Σ [log p(x|z) − log q(z|x) + log p(z_1..z_J|y)]."""
    torch.manual_seed(0)
    encoder, decoder = build(NetworkSpec(widths=(16, 8)), (1, 4, 4), 3)
    views = torch.rand(2, 3, 1, 4, 4)
    x = views.flatten(0, 1)
    mean, log_variance = encoder(x)
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(5))
    z = mean + (0.5 * log_variance).exp() * noise
    elbo = (
        Gaussian(0.0).log_prob(x, decoder(z)).sum()
        - gaussian_log_prob(z, mean, log_variance).sum()
        + brute_force(z.view(2, 3, 3).double(), 0.15, 1.0).sum()
    ) / 6
    objective = SimVAE(encoder, decoder, Gaussian(0.0), terms="sampled", prior="normal")
    loss = objective(batch(views, 5))["loss"]
    assert loss.item() == pytest.approx(-elbo.item(), rel=1e-5)


def test_a_vae_is_simvae_of_one_view_with_no_scatter() -> None:
    torch.manual_seed(0)
    encoder, decoder = build(NetworkSpec(widths=(16, 8)), (1, 4, 4), 3)
    views = torch.rand(8, 1, 1, 4, 4)
    vae = VAE(encoder, decoder, Bernoulli())
    simvae = SimVAE(encoder, decoder, Bernoulli(), scatter=1e-9, prior="normal")
    losses = [o(batch(views, 1))["loss"].item() for o in (vae, simvae)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_beta_weighs_the_kl_term() -> None:
    torch.manual_seed(0)
    encoder, decoder = build(NetworkSpec(widths=(16, 8)), (1, 4, 4), 3)
    views = torch.rand(8, 2, 1, 4, 4)
    vae = VAE(encoder, decoder, Bernoulli())(batch(views, 1))
    beta = VAE(encoder, decoder, Bernoulli(), beta=4.0)(batch(views, 1))
    assert (beta["loss"] - vae["loss"]).item() == pytest.approx(3 * vae["kl"].item(), rel=1e-4)


def test_settings_that_mean_nothing_are_refused() -> None:
    encoder, decoder = build(NetworkSpec(widths=(8,)), (1, 4, 4), 3)
    with pytest.raises(ValueError, match="at least 2 views"):
        SimVAE(encoder, decoder, Bernoulli())(batch(torch.rand(2, 1, 1, 4, 4), 0))
    with pytest.raises(ValueError, match="scatter"):
        SimVAE(encoder, decoder, Bernoulli(), scatter=0.0)
    with pytest.raises(ValueError, match="beta"):
        VAE(encoder, decoder, Bernoulli(), beta=-1.0)
    with pytest.raises(ValueError, match="weight"):
        Bernoulli(0.0)


def test_the_runtime_knows_the_defaults_of_recipes(tmp_path: Path) -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(SimVAE.build).parameters.items()
    }
    recipe = {"method": "simvae", "options": {}}
    (tmp_path / "metrics.json").write_text(json.dumps({"training": {"recipe": recipe}}))
    views = read_view_model(tmp_path / "metrics.json")
    assert views is not None
    assert views.scatter == defaults["scatter"]
    assert views.precision == {"uniform": 0, "normal": 1}[defaults["prior"]]
