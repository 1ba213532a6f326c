"""Encoders and decoders, and the one factory that makes a pair of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from repzoo_training.networks.heads import GaussianEncoder, LatentDecoder, PointEncoder
from repzoo_training.networks.mlp import MLPBackbone, MLPDecoder
from repzoo_training.networks.projection import ProjectionHead
from repzoo_training.networks.resnet import ResNetBackbone, ResNetDecoder

__all__ = [
    "GaussianEncoder",
    "LatentDecoder",
    "NetworkSpec",
    "PointEncoder",
    "ProjectionHead",
    "build",
    "build_decoder",
    "build_encoder",
]


class NetworkSpec(BaseModel):
    """A pair; ``widths`` are an MLP's hidden layers or a ResNet's stages, from the image on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mlp", "resnet18"] = "mlp"
    widths: tuple[int, ...] = Field(default=(2000, 500, 500), min_length=1)


def build(
    spec: NetworkSpec, image_shape: tuple[int, int, int], latent_dim: int
) -> tuple[GaussianEncoder, LatentDecoder]:
    """The encoder q(z|x) and the decoder p(x|z) for images ``(C, H, W)`` and D = ``latent_dim``.

    Raises:
        ValueError: if the network cannot take images of that size.
    """
    backbone = _backbone(spec, image_shape)
    decoder = _decoder(spec, image_shape)
    return (
        GaussianEncoder(backbone, backbone.feature_dim, latent_dim),
        LatentDecoder(decoder, decoder.feature_dim, latent_dim),
    )


def build_encoder(
    spec: NetworkSpec, image_shape: tuple[int, int, int], latent_dim: int
) -> PointEncoder:
    """An encoder without posterior, of the same backbone.

    Raises:
        ValueError: if the network cannot take images of that size.
    """
    backbone = _backbone(spec, image_shape)
    return PointEncoder(backbone, backbone.feature_dim, latent_dim)


def build_decoder(
    spec: NetworkSpec, image_shape: tuple[int, int, int], latent_dim: int
) -> LatentDecoder:
    """A decoder alone, for a representation that has none.

    Raises:
        ValueError: if the network cannot make images of that size.
    """
    decoder = _decoder(spec, image_shape)
    return LatentDecoder(decoder, decoder.feature_dim, latent_dim)


def _backbone(spec: NetworkSpec, image_shape: tuple[int, int, int]) -> MLPBackbone | ResNetBackbone:
    if spec.kind == "mlp":
        return MLPBackbone(image_shape, spec.widths)
    return ResNetBackbone(image_shape[0], spec.widths)


def _decoder(spec: NetworkSpec, image_shape: tuple[int, int, int]) -> MLPDecoder | ResNetDecoder:
    if spec.kind == "mlp":
        return MLPDecoder(image_shape, spec.widths)
    return ResNetDecoder(image_shape, spec.widths)
