"""CR-VAE and VAE: comparison with torch.distributions in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from repzoo_training.networks import NetworkSpec, build
from repzoo_training.objectives import METHODS, Batch, Parts
from repzoo_training.objectives import build as build_objective
from repzoo_training.objectives.cr_vae import CRVAE, inconsistency
from repzoo_training.objectives.likelihoods import Gaussian
from repzoo_training.objectives.posterior import kl, kl_to_standard_normal
from repzoo_training.objectives.vae import VAE
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence


class Encoder(nn.Module):
    """A posterior in float64; the encoders of the package return float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.layers(images).chunk(2, dim=1)
        return mean, log_variance


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    return Encoder().double(), decoder.double()


def batch(J: int, seed: int = 5) -> Batch:  # noqa: N803
    views = torch.rand(
        4, J, 1, 4, 4, generator=torch.Generator().manual_seed(J), dtype=torch.float64
    )
    return Batch(views, torch.arange(4), torch.Generator().manual_seed(seed))


def posteriors(*shape: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(len(shape))
    return (
        torch.randn(shape, generator=random, dtype=torch.float64),
        torch.randn(shape, generator=random, dtype=torch.float64),
    )


def gaussian(mean: Tensor, log_variance: Tensor) -> Independent:
    return Independent(Normal(mean, (0.5 * log_variance).exp()), 1)


def elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """Return the loss of images ``[N, ...]`` with given noise, by torch.distributions: ``[N]``."""
    mean, log_variance = encoder(x)
    q = gaussian(mean, log_variance)
    pixels = Normal(torch.sigmoid(decoder(mean + (0.5 * log_variance).exp() * noise)), 1.0)
    prior = gaussian(torch.zeros_like(mean), torch.zeros_like(mean))
    return pixels.log_prob(x).sum((1, 2, 3)) - kl_divergence(q, prior)


def test_kl_of_two_gaussians() -> None:
    q, p = posteriors(5, 7, 3), tuple(t.flip(0) for t in posteriors(5, 7, 3))
    torch.testing.assert_close(kl(*q, *p), kl_divergence(gaussian(*q), gaussian(*p)))
    zeros = torch.zeros(5, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(kl(*q, zeros, zeros), kl_to_standard_normal(*q))
    assert torch.equal(kl(*q, *q), torch.zeros(5, 7, dtype=torch.float64))


def test_two_views_give_half_the_papers_loss_in_both_orders() -> None:
    encoder, decoder = networks()
    views = batch(2).views
    noise = torch.randn(8, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x, augmented = views[:, 0], views[:, 1]
    elbos = [elbo(encoder, decoder, v, noise[i::2]) for i, v in enumerate((x, augmented))]
    losses = [
        -(elbos[0] + elbos[1]) + 0.7 * kl_divergence(gaussian(*encoder(b)), gaussian(*encoder(a)))
        for a, b in ((x, augmented), (augmented, x))
    ]
    expected = torch.stack(losses).mean() / 2
    objective = CRVAE(encoder, decoder, Gaussian(0.0), consistency=0.7)
    terms = objective(batch(2))
    torch.testing.assert_close(terms["loss"], expected)
    by_terms = terms["kl"] - terms["log_likelihood"] + 0.35 * terms["inconsistency"]
    torch.testing.assert_close(terms["loss"], by_terms)


@pytest.mark.parametrize("J", [2, 3, 5])
def test_inconsistency_is_the_mean_over_ordered_pairs(J: int) -> None:  # noqa: N803
    mean, log_variance = posteriors(4, J, 3)
    pairs = [
        kl_divergence(
            gaussian(mean[:, j], log_variance[:, j]), gaussian(mean[:, i], log_variance[:, i])
        )
        for i, j in itertools.permutations(range(J), 2)
    ]
    torch.testing.assert_close(inconsistency(mean, log_variance), torch.stack(pairs).mean(0))
    order = torch.randperm(J, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        inconsistency(mean[:, order], log_variance[:, order]), inconsistency(mean, log_variance)
    )
    same = mean[:, :1].expand_as(mean), log_variance[:, :1].expand_as(mean)
    assert inconsistency(*same).abs().max() == 0


def test_gradients_by_finite_differences() -> None:
    mean, log_variance = (t.requires_grad_() for t in posteriors(2, 3, 2))
    assert torch.autograd.gradcheck(inconsistency, (mean, log_variance))


def test_without_consistency_it_is_a_vae() -> None:
    encoder, decoder = networks()
    vae = VAE(encoder, decoder, Gaussian(0.0))(batch(3))
    without = CRVAE(encoder, decoder, Gaussian(0.0), consistency=0.0)(batch(3))
    torch.testing.assert_close(without["loss"], vae["loss"])


def test_training_on_it_brings_views_together() -> None:
    apart = {}
    for consistency in (0.0, 100.0):
        encoder, decoder = networks()
        objective = CRVAE(encoder, decoder, Gaussian(0.0), consistency=consistency)
        optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
        for step in range(50):
            optimizer.zero_grad()
            terms = objective(batch(2, step))
            terms["loss"].backward()
            optimizer.step()
        apart[consistency] = terms["inconsistency"].item() / terms["kl"].item()
    assert apart[100.0] < 0.5 * apart[0.0]


def parts() -> Parts:
    encoder, decoder = networks()
    return Parts(encoder, 3, 4, decoder, Gaussian(0.0))


def test_the_registry_has_the_three_vaes() -> None:
    assert METHODS["cr-vae"].generative
    cr_vae = build_objective("cr-vae", {}, parts())
    assert isinstance(cr_vae, CRVAE)
    assert cr_vae.consistency == 1e-3
    vae, beta_vae = (build_objective(m, {}, parts()) for m in ("vae", "beta-vae"))
    assert isinstance(vae, VAE)
    assert isinstance(beta_vae, VAE)
    assert (vae.beta, beta_vae.beta) == (1.0, 4.0)
    terms = vae(batch(2)), beta_vae(batch(2))
    torch.testing.assert_close(terms[1]["loss"] - terms[0]["loss"], 3 * terms[0]["kl"])
    sampled = build_objective("beta-vae", {"beta": 0.5, "terms": "sampled"}, parts())
    assert isinstance(sampled, VAE)
    assert (sampled.beta, sampled.terms) == (0.5, "sampled")
    with pytest.raises(ValueError, match=r"'vae'.*'beta'"):
        build_objective("vae", {"beta": 2.0}, parts())


def test_it_trains_the_packages_networks_in_bfloat16() -> None:
    encoder, decoder = build(NetworkSpec(widths=(16, 8)), (1, 4, 4), 3)
    objective = CRVAE(encoder, decoder, Gaussian())
    views = Batch(torch.rand(4, 2, 1, 4, 4), torch.arange(4), torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(views)
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_settings_that_mean_nothing_are_refused() -> None:
    encoder, decoder = networks()
    with pytest.raises(ValueError, match="at least 2 views"):
        CRVAE(encoder, decoder, Gaussian())(batch(1))
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        CRVAE(encoder, decoder, Gaussian(), consistency=-1.0)
    with pytest.raises(ValueError, match="needs a likelihood"):
        CRVAE.build(Parts(encoder, 3, 4))
