"""Random: nothing changes except the statistics of batch normalisation."""

from __future__ import annotations

import pytest
import torch
from repzoo_training.networks import NetworkSpec, build_encoder
from repzoo_training.objectives import Batch, Parts
from repzoo_training.objectives.random import Random
from repzoo_training.optim.optimizers import build_optimizer
from repzoo_training.recipes.recipe import OptimizerName, override
from repzoo_training.recipes.registry import find_recipe
from torch import nn

NETWORKS = [NetworkSpec(widths=(16, 8)), NetworkSpec(kind="resnet18", widths=(4, 8))]


def batches(steps: int) -> list[Batch]:
    random = torch.Generator().manual_seed(0)
    return [
        Batch(torch.rand(6, 2, 3, 8, 8, generator=random), torch.arange(6), random)
        for _ in range(steps)
    ]


def objective(spec: NetworkSpec) -> Random:
    torch.manual_seed(0)
    return Random.build(Parts(build_encoder(spec, (3, 8, 8), 5), 5, 6)).train()


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
@pytest.mark.parametrize("spec", NETWORKS)
def test_no_optimizer_moves_a_weight(spec: NetworkSpec, name: OptimizerName) -> None:
    random = objective(spec)
    assert not any(p.requires_grad for p in random.encoder.parameters())
    before = {n: p.clone() for n, p in random.named_parameters()}
    settings = (f"optimizer={name}", "weight_decay=0.5", "learning_rate=1.0")
    optimizer = build_optimizer(override(find_recipe("simvae-mnist"), settings), random)
    for batch in batches(3):
        loss = random(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss == 0
    for parameter, value in random.named_parameters():
        assert torch.equal(value, before[parameter])


def test_statistics_are_means_over_all_batches() -> None:
    random = objective(NETWORKS[1])
    stem, norm = random.encoder.backbone.stem[0], random.encoder.backbone.stem[1]
    seen = batches(4)
    for batch in seen:
        random(batch)
    outputs = [stem(batch.views.flatten(0, 1)).transpose(0, 1).flatten(1) for batch in seen]
    torch.testing.assert_close(
        norm.running_mean, torch.stack([y.mean(1) for y in outputs]).mean(0), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        norm.running_var, torch.stack([y.var(1) for y in outputs]).mean(0), rtol=1e-4, atol=1e-5
    )


def test_a_random_resnet_is_evaluated_as_it_was_seen() -> None:
    random = objective(NETWORKS[1])
    for batch in batches(20):
        random(batch)
    x = batches(21)[-1].views.flatten(0, 1)
    with torch.no_grad():
        during = random.encoder(x)
        after = random.eval().encoder(x)
    spread = during.std(0).mean()
    assert (during - after).abs().mean() < 0.2 * spread


def test_other_objectives_keep_their_momentum() -> None:
    encoder = build_encoder(NETWORKS[1], (3, 8, 8), 5)
    assert {m.momentum for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
