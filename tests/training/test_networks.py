"""Networks: comparison with torchvision, shapes, precision, graphs and limits."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from pydantic import ValidationError
from repzoo_training.export.graphs import write_graph
from repzoo_training.networks import NetworkSpec, build, build_decoder, build_encoder
from repzoo_training.networks.vit import positions
from torch import Tensor, nn

Shape = tuple[int, int, int]

PAIRS = [
    (NetworkSpec(kind="mlp", widths=(64, 32)), (1, 28, 28)),
    (NetworkSpec(kind="conv", widths=(8, 16, 32)), (3, 64, 64)),
    (NetworkSpec(kind="conv", widths=(8, 16, 32), patch=2), (1, 28, 28)),
    (NetworkSpec(kind="conv", widths=(8, 16, 32), patch=3), (3, 27, 45)),
    (NetworkSpec(kind="resnet18", widths=(8, 16, 32)), (3, 32, 32)),
    (NetworkSpec(kind="resnet18", widths=(8, 16, 32, 64)), (3, 64, 64)),
    (NetworkSpec(kind="resnet18", widths=(8, 16, 32, 64)), (1, 28, 28)),
    (NetworkSpec(kind="resnet18", widths=(8, 16), stem="imagenet"), (3, 30, 45)),
    (NetworkSpec(kind="resnet50", widths=(8, 16, 16, 16)), (3, 32, 32)),
    (NetworkSpec(kind="resnet50", widths=(8, 16), stem="imagenet"), (3, 33, 33)),
    (NetworkSpec(kind="vit", widths=(16,), depth=2, heads=2), (3, 16, 24)),
    (NetworkSpec(kind="vit", widths=(16,), depth=1, heads=4, patch=7), (1, 28, 28)),
]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("spec", "shape"), PAIRS)
def test_a_pair_maps_images_to_latents_and_back(spec: NetworkSpec, shape: Shape) -> None:
    encoder, decoder = build(spec, shape, 5)
    mean, log_variance = encoder(torch.rand(3, *shape))
    assert mean.shape == log_variance.shape == (3, 5)
    assert decoder(mean).shape == (3, *shape)
    assert build_encoder(spec, shape, 5)(torch.rand(3, *shape)).shape == (3, 5)
    assert build_decoder(spec, shape, 5)(mean).shape == (3, *shape)


@pytest.mark.parametrize(("spec", "shape"), PAIRS)
def test_every_parameter_is_trained(spec: NetworkSpec, shape: Shape) -> None:
    torch.manual_seed(0)
    encoder, decoder = build(spec, shape, 5)
    mean, log_variance = encoder(torch.rand(3, *shape))
    (decoder(mean + log_variance) * torch.randn(3, *shape)).sum().backward()
    for name, parameter in itertools.chain(encoder.named_parameters(), decoder.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize(("spec", "shape"), PAIRS)
def test_latents_are_float32_under_autocast(spec: NetworkSpec, shape: Shape) -> None:
    encoder, decoder = build(spec, shape, 5)
    near = torch.ones(1, 5), torch.ones(1, 5) + 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = encoder(torch.rand(2, *shape))
        logits = decoder(mean)
        # bfloat16 cannot tell these latents apart, but the decoder's first layer must.
        assert torch.equal(near[0].bfloat16(), near[1].bfloat16())
        seen: list[Tensor] = []
        decoder.decoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
        for latents in near:
            decoder(latents)
    assert {t.dtype for t in (mean, log_variance, logits, *seen)} == {torch.float32}
    assert not torch.equal(*seen)


@pytest.mark.parametrize(("spec", "shape"), PAIRS)
def test_channels_last_changes_nothing(spec: NetworkSpec, shape: Shape) -> None:
    torch.manual_seed(0)
    pair = nn.Sequential(build_encoder(spec, shape, 5), build_decoder(spec, shape, 5)).eval()
    x = torch.rand(3, *shape)
    expected = pair(x)
    moved = pair.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


def randomise(module: nn.Module) -> None:
    """Randomise weights and statistics, because normalisations start as the identity."""
    random = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.ndim == 1:
            noise = torch.rand(value.shape, generator=random)
            value.copy_(noise if name.endswith(("bias", "mean")) else 0.5 + noise)


@pytest.mark.parametrize("kind", ["resnet18", "resnet50"])
def test_a_resnet_is_torchvisions(kind: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, kind)()
    theirs.fc = nn.Identity()
    randomise(theirs)
    spec = NetworkSpec.model_validate({"kind": kind, "stem": "imagenet"})
    backbone = build_encoder(spec, (3, 47, 33), 10).backbone
    assert (
        parameters(backbone)
        == parameters(theirs)
        == {
            "resnet18": 11_689_512 - 513_000,  # the published count without the ImageNet classifier
            "resnet50": 25_557_032 - 2_049_000,
        }[kind]
    )
    # Both networks define their layers in the order of the paper's figures.
    copied = zip(backbone.state_dict(), theirs.state_dict().values(), strict=True)
    backbone.load_state_dict(dict(copied))
    x = torch.rand(2, 3, 47, 33)
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


def test_a_resnet_starts_as_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18()
    spec = NetworkSpec(kind="resnet18", stem="imagenet")
    ours = build_encoder(spec, (3, 64, 64), 10).backbone
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=False):
        if mine.ndim == 1:
            assert torch.equal(mine, their)
        elif mine.numel() > 5000:
            assert mine.std().item() == pytest.approx(their.std().item(), rel=0.05)


def test_the_small_stem_is_a_3x3_convolution_of_stride_1() -> None:
    encoder, _ = build(NetworkSpec(kind="resnet18"), (3, 32, 32), 64)
    # torchvision's 11,176,512 without its classifier has a 7×7 stem of 9,408 instead of 1,728.
    assert parameters(encoder.backbone) == 11_176_512 - 9_408 + 1_728
    assert encoder.backbone.stem(torch.rand(1, 3, 32, 32)).shape == (1, 64, 32, 32)


def torchvision_vit(size: int, patch: int, width: int, depth: int, heads: int) -> nn.Module:
    return torchvision.models.VisionTransformer(size, patch, depth, heads, width, 4 * width)


def test_a_vit_has_the_published_size() -> None:
    with torch.device("meta"):
        spec = NetworkSpec(kind="vit", widths=(768,), patch=16, depth=12, heads=12)
        base = build_encoder(spec, (3, 224, 224), 10).backbone
        spec = NetworkSpec(kind="vit", widths=(192,), patch=16, depth=12, heads=3)
        tiny = build_encoder(spec, (3, 224, 224), 10).backbone
    # torchvision's ViT-B/16 and timm's ViT-Ti/16, without the ImageNet classifier, and without the
    # class token and the learned positions, which this network does not have.
    assert parameters(base) == 86_567_656 - 769_000 - 768 - 197 * 768
    assert parameters(tiny) == 5_717_416 - 193_000 - 192 - 197 * 192


def test_a_vit_is_torchvisions_without_class_token() -> None:
    torch.manual_seed(0)
    theirs = torchvision_vit(32, 8, 24, 3, 2)
    randomise(theirs)
    spec = NetworkSpec(kind="vit", widths=(24,), patch=8, depth=3, heads=2)
    backbone = build_encoder(spec, (3, 32, 32), 10).backbone
    weights = [
        value
        for name, value in theirs.state_dict().items()
        if name not in ("class_token", "encoder.pos_embedding") and not name.startswith("heads")
    ]
    backbone.load_state_dict(dict(zip(backbone.state_dict(), weights, strict=True)))
    theirs.encoder.pos_embedding = nn.Parameter(positions((4, 4), 24)[None])
    x = torch.rand(2, 3, 32, 32)
    tokens = theirs.conv_proj(x).reshape(2, 24, 16).permute(0, 2, 1)
    expected = theirs.encoder.eval()(tokens).mean(1)
    torch.testing.assert_close(backbone(x), expected, rtol=1e-4, atol=1e-4)


def test_positions_by_their_definition() -> None:
    ours = positions((2, 3), 12)
    for row, column in itertools.product(range(2), range(3)):
        frequencies = [10_000 ** (-k / 2) for k in range(3)]
        expected = [
            wave(place * f)
            for place in (column, row)
            for wave in (math.sin, math.cos)
            for f in frequencies
        ]
        assert ours[3 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_vit_sees_where_a_patch_is() -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(kind="vit", widths=(16,), depth=1, heads=2, patch=4)
    backbone = build_encoder(spec, (1, 8, 8), 5).backbone
    x = torch.rand(1, 1, 8, 8)
    assert not torch.allclose(backbone(x), backbone(x.roll(4, 2)), atol=1e-5)


def test_a_vits_decoder_paints_each_token_into_its_patch() -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(kind="vit", widths=(16,), depth=1, heads=2, patch=4)
    decoder = build_decoder(spec, (1, 8, 12), 5).decoder
    decoder.blocks = nn.Identity()  # without attention, tokens do not interact
    tokens = torch.randn(1, 6, 16)
    changed = tokens.clone()
    changed[0, 4] += torch.randn(16)
    difference = (decoder(changed.flatten(1)) - decoder(tokens.flatten(1))).abs()[0, 0] > 1e-6
    assert difference[4:8, 4:8].all()
    assert difference.sum() == 16


class Autoencoder(nn.Module):
    def __init__(self, spec: NetworkSpec, shape: Shape) -> None:
        super().__init__()
        self.encoder = build_encoder(spec, shape, 5)
        self.decoder = build_decoder(spec, shape, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        return z, self.decoder(z)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        # The graph of the MLP is tested with exported runs.
        (NetworkSpec(kind="resnet18", widths=(4, 8), stem="imagenet"), (3, 22, 25)),
        (NetworkSpec(kind="resnet50", widths=(4,)), (3, 8, 8)),
        (NetworkSpec(kind="vit", widths=(8,), depth=1, heads=2), (3, 8, 12)),
    ],
    ids=lambda value: value.kind if isinstance(value, NetworkSpec) else "",
)
def test_the_graph_equals_torch(spec: NetworkSpec, shape: Shape, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pair = Autoencoder(spec, shape)
    for _ in range(3):
        pair(torch.rand(8, *shape))  # change the running statistics
    pair.eval()
    path = tmp_path / "pair.onnx"
    write_graph(pair, path, {"x": torch.rand(2, *shape)}, output_names=["embedding", "logits"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (1, 3, 9):
        x = torch.rand(rows, *shape)
        with torch.no_grad():
            expected = pair(x)
        for ours, theirs in zip(session.run(None, {"x": x.numpy()}), expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4)


def test_the_papers_mlp_pair_has_5_66_million_parameters() -> None:
    pair = build(NetworkSpec(kind="mlp", widths=(2000, 500, 500)), (1, 28, 28), 10)
    assert sum(map(parameters, pair)) == 5_657_804


def test_a_seed_gives_an_mlp_the_weights_that_it_always_gave() -> None:
    torch.manual_seed(7)
    encoder, decoder = build(NetworkSpec(kind="mlp", widths=(6, 5)), (1, 2, 2), 3)
    torch.manual_seed(7)
    expected: list[Tensor] = []
    # Two hidden layers and their mirror, plus output and both heads without He initialisation.
    sizes = [(4, 6), (6, 5), (5, 6), (6, 4), (5, 6), (3, 5)]
    for number, (fan_in, fan_out) in enumerate(sizes):
        layer = nn.Linear(fan_in, fan_out)
        if number < 3:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        expected += [layer.weight, layer.bias]
    made = [
        *encoder.backbone.parameters(),
        *decoder.decoder.parameters(),
        *encoder.head.parameters(),
        *decoder.stem.parameters(),
    ]
    for ours, theirs in zip(made, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_names_of_weights_stay_what_checkpoints_hold() -> None:
    encoder, decoder = build(NetworkSpec(kind="resnet18", widths=(4, 8)), (3, 8, 8), 3)
    names = {n for n, _ in (*encoder.named_parameters(), *decoder.named_parameters())}
    assert {
        "backbone.stem.0.weight",
        "backbone.blocks.2.conv1.weight",
        "backbone.blocks.2.shortcut.0.weight",
        "head.weight",
        "stem.weight",
        "decoder.blocks.1.norm2.bias",
        "decoder.output.bias",
    } <= names
    assert len(encoder.backbone.blocks) == len(decoder.decoder.blocks) == 4


def test_he_initialisation_keeps_the_signal() -> None:
    encoder, _ = build(NetworkSpec(kind="mlp", widths=(500, 500, 500, 500)), (1, 28, 28), 10)
    features = encoder.backbone(torch.randn(256, 1, 28, 28))
    assert 0.5 < features.square().mean() < 2.0


@pytest.mark.parametrize(
    ("spec", "features"),
    [
        (NetworkSpec(kind="mlp", widths=(8, 6), head="none"), 6),
        (NetworkSpec(kind="resnet18", head="none"), 512),
        (NetworkSpec(kind="resnet50", widths=(4, 8), head="none"), 32),
        (NetworkSpec(kind="vit", head="none"), 192),
    ],
)
def test_without_a_head_the_features_are_the_representation(
    spec: NetworkSpec, features: int
) -> None:
    encoder = build_encoder(spec, (3, 16, 16), features).eval()
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(encoder(x), encoder.backbone(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(x).dtype == torch.float32
    message = f"{features} features .* latent_dim is 64: set latent_dim={features}"
    with pytest.raises(ValueError, match=message):
        build_encoder(spec, (3, 16, 16), 64)
    with pytest.raises(ValueError, match=r"posterior needs a head.*network\.head=linear"):
        build(spec, (3, 16, 16), features)
    assert build_decoder(spec, (3, 16, 16), features)(encoder(x)).shape == x.shape


def test_a_spec_says_everything_that_a_kind_has_by_default() -> None:
    assert NetworkSpec().widths == (2000, 500, 500)
    assert NetworkSpec(kind="resnet50").widths == (64, 128, 256, 512)
    vit = NetworkSpec(kind="vit")
    assert (vit.widths, vit.patch, vit.depth, vit.heads) == ((192,), 4, 12, 3)
    for spec in (NetworkSpec(), vit):
        assert NetworkSpec.model_validate_json(spec.model_dump_json()) == spec
    # As stored by runs older than stems and heads.
    assert NetworkSpec.model_validate({"kind": "resnet18", "widths": [32, 64, 128]}).stem == "small"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cnn"}, "unknown network 'cnn': choose from mlp, conv, resnet18, resnet50, vit"),
        ({"kind": ["mlp"]}, "kind"),
        ({"widths": ()}, "widths"),
        ({"widths": (10, 0)}, "widths"),
        ({"stem": "imagenet"}, "stem 'imagenet' needs a ResNet, but the network is a mlp"),
        ({"kind": "vit", "stem": "imagenet"}, "needs a ResNet"),
        ({"kind": "resnet18", "patch": 4}, "patches need a vit or a conv"),
        ({"kind": "conv", "depth": 4}, "depth and heads need a vit"),
        ({"kind": "resnet18", "widths": (2000, 500, 500)}, "must not decrease.*64, 128, 256, 512"),
        ({"kind": "resnet50", "widths": (8, 8, 8, 8, 8)}, "at most 4 stages"),
        ({"kind": "vit", "widths": (192, 192)}, "one width"),
        ({"kind": "vit", "widths": (190,)}, "multiple of 4 and of its 3 heads, got 190"),
        ({"kind": "vit", "widths": (64,)}, "multiple of 4 and of its 3 heads, got 64"),
        ({"kind": "vit", "depth": 0}, "depth"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        NetworkSpec.model_validate(settings)


def test_images_that_do_not_divide_into_patches_are_refused() -> None:
    spec = NetworkSpec(kind="vit", patch=8)
    for make in (build, build_encoder, build_decoder):
        with pytest.raises(
            ValueError,
            match=r"8×8 do not tile images of 28×28 pixels: set network\.patch",
        ):
            make(spec, (1, 28, 28), 5)
