"""Shapes, precision and limits of the networks."""

from __future__ import annotations

import pytest
import torch
from repzoo_training.networks import NetworkSpec, build

PAIRS = [
    (NetworkSpec(kind="mlp", widths=(64, 32)), (1, 28, 28)),
    (NetworkSpec(kind="resnet18", widths=(8, 16, 32)), (3, 32, 32)),
    (NetworkSpec(kind="resnet18", widths=(8, 16, 32, 64)), (3, 64, 64)),
]


@pytest.mark.parametrize(("spec", "shape"), PAIRS)
def test_a_pair_maps_images_to_latents_and_back(
    spec: NetworkSpec, shape: tuple[int, int, int]
) -> None:
    encoder, decoder = build(spec, shape, 5)
    mean, log_variance = encoder(torch.rand(3, *shape))
    assert mean.shape == log_variance.shape == (3, 5)
    assert decoder(mean).shape == (3, *shape)


@pytest.mark.parametrize(("spec", "shape"), PAIRS)
def test_latents_are_float32_under_autocast(spec: NetworkSpec, shape: tuple[int, int, int]) -> None:
    encoder, decoder = build(spec, shape, 5)
    near = torch.ones(1, 5), torch.ones(1, 5) + 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = encoder(torch.rand(2, *shape))
        logits = decoder(mean)
        # bfloat16 cannot tell these latents apart; the decoder's first layer must.
        assert torch.equal(near[0].bfloat16(), near[1].bfloat16())
        seen: list[torch.Tensor] = []
        decoder.decoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
        for latents in near:
            decoder(latents)
    assert {t.dtype for t in (mean, log_variance, logits, *seen)} == {torch.float32}
    assert not torch.equal(*seen)


def test_the_papers_mlp_pair_has_5_66_million_parameters() -> None:
    pair = build(NetworkSpec(kind="mlp", widths=(2000, 500, 500)), (1, 28, 28), 10)
    assert sum(p.numel() for network in pair for p in network.parameters()) == 5_657_804


def test_resnet18_has_the_usual_parameters() -> None:
    encoder, _ = build(NetworkSpec(kind="resnet18", widths=(64, 128, 256, 512)), (3, 32, 32), 64)
    count = sum(p.numel() for p in encoder.backbone.parameters())
    # torchvision's 11,176,512 without its classifier has a 7×7 stem of 9,408 instead of 1,728.
    assert count == 11_176_512 - 9_408 + 1_728


def test_he_initialisation_keeps_the_signal() -> None:
    encoder, _ = build(NetworkSpec(kind="mlp", widths=(500, 500, 500, 500)), (1, 28, 28), 10)
    features = encoder.backbone(torch.randn(256, 1, 28, 28))
    assert 0.5 < features.square().mean() < 2.0


def test_sizes_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of 4"):
        build(NetworkSpec(kind="resnet18", widths=(8, 16, 32)), (3, 30, 30), 5)
