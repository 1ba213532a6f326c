"""Encoders and decoders, and the factory that builds a pair of them."""

from __future__ import annotations

from torch import nn

from repzoo_training.networks.conv import ConvBackbone, ConvDecoder
from repzoo_training.networks.heads import GaussianEncoder, LatentDecoder, PointEncoder
from repzoo_training.networks.mlp import MLPBackbone, MLPDecoder
from repzoo_training.networks.projection import ProjectionHead
from repzoo_training.networks.resnet import BasicBlock, Bottleneck, ResNetBackbone, ResNetDecoder
from repzoo_training.networks.spec import NETWORKS, Network, NetworkSpec, register
from repzoo_training.networks.vit import ViTBackbone, ViTDecoder

__all__ = [
    "GaussianEncoder",
    "LatentDecoder",
    "Network",
    "NetworkSpec",
    "PointEncoder",
    "ProjectionHead",
    "build",
    "build_decoder",
    "build_encoder",
    "register",
]

#: The number of blocks in each stage of a ResNet-50.
RESNET50 = (3, 4, 6, 3)


def build(
    spec: NetworkSpec, image_shape: tuple[int, int, int], latent_dim: int
) -> tuple[GaussianEncoder, LatentDecoder]:
    """Build the encoder q(z|x) and the decoder p(x|z).

    Args:
        spec: The network.
        image_shape: ``(C, H, W)``.
        latent_dim: D.

    Raises:
        ValueError: If the network does not support images of that size, or has no head for a
            posterior.
    """
    if spec.head != "linear":
        raise ValueError(
            f"a posterior needs a head for its mean and variance, but network.head is "
            f"{spec.head!r}: set network.head=linear"
        )
    backbone = _backbone(spec, image_shape)
    decoder = _decoder(spec, image_shape)
    return (
        GaussianEncoder(backbone, _features(backbone), latent_dim),
        LatentDecoder(decoder, _features(decoder), latent_dim),
    )


def build_encoder(
    spec: NetworkSpec, image_shape: tuple[int, int, int], latent_dim: int
) -> PointEncoder:
    """Build an encoder without a posterior, with the same backbone.

    Raises:
        ValueError: If the network does not support images of that size, or has no head and its
            number of features is not ``latent_dim``.
    """
    backbone = _backbone(spec, image_shape)
    if spec.head == "linear":
        return PointEncoder(backbone, _features(backbone), latent_dim)
    features = _features(backbone)
    if latent_dim != features:
        raise ValueError(
            f"without a head, the representation is the {features} features of the "
            f"{spec.kind}, but latent_dim is {latent_dim}: set latent_dim={features}, "
            "or network.head=linear"
        )
    return PointEncoder(backbone, features, None)


def build_decoder(
    spec: NetworkSpec, image_shape: tuple[int, int, int], latent_dim: int
) -> LatentDecoder:
    """Build a decoder alone, for a representation without one.

    Raises:
        ValueError: If the network does not support images of that size.
    """
    decoder = _decoder(spec, image_shape)
    return LatentDecoder(decoder, _features(decoder), latent_dim)


def _features(module: nn.Module) -> int:
    """Return the number of features of a backbone or of a decoder's input."""
    features = getattr(module, "feature_dim", None)
    if not isinstance(features, int):
        raise ValueError(
            f"{type(module).__name__} needs the attribute feature_dim, the number of its features"
        )
    return features


def _backbone(spec: NetworkSpec, image_shape: tuple[int, int, int]) -> nn.Module:
    if spec.kind in NETWORKS:
        return NETWORKS[spec.kind].encoder(spec, image_shape)
    if spec.kind == "mlp":
        return MLPBackbone(image_shape, spec.widths)
    if spec.kind == "conv":
        return ConvBackbone(image_shape, spec.widths, spec.patch_side)
    if spec.kind == "vit":
        return ViTBackbone(image_shape, spec.widths[0], *spec.transformer)
    channels, stages = image_shape[0], len(spec.widths)
    if spec.kind == "resnet18":
        return ResNetBackbone(channels, spec.widths, BasicBlock, (2,) * stages, spec.stem)
    return ResNetBackbone(channels, spec.widths, Bottleneck, RESNET50[:stages], spec.stem)


def _decoder(spec: NetworkSpec, image_shape: tuple[int, int, int]) -> nn.Module:
    if spec.kind in NETWORKS:
        make = NETWORKS[spec.kind].decoder
        if make is None:
            raise ValueError(f"the network {spec.kind!r} has no decoder")
        return make(spec, image_shape)
    if spec.kind == "mlp":
        return MLPDecoder(image_shape, spec.widths)
    if spec.kind == "conv":
        return ConvDecoder(image_shape, spec.widths, spec.patch_side)
    if spec.kind == "vit":
        return ViTDecoder(image_shape, spec.widths[0], *spec.transformer)
    return ResNetDecoder(image_shape, spec.widths, spec.stem)
