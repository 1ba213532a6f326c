"""Encoders and decoders, and the one factory that makes a pair of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from repzoo_training.networks.heads import GaussianEncoder, LatentDecoder
from repzoo_training.networks.mlp import MLPBackbone, MLPDecoder
from repzoo_training.networks.resnet import ResNetBackbone, ResNetDecoder

__all__ = ["GaussianEncoder", "LatentDecoder", "NetworkSpec", "build"]


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
    backbone: MLPBackbone | ResNetBackbone
    decoder: MLPDecoder | ResNetDecoder
    if spec.kind == "mlp":
        backbone = MLPBackbone(image_shape, spec.widths)
        decoder = MLPDecoder(image_shape, spec.widths)
    else:
        backbone = ResNetBackbone(image_shape[0], spec.widths)
        decoder = ResNetDecoder(image_shape, spec.widths)
    return (
        GaussianEncoder(backbone, backbone.feature_dim, latent_dim),
        LatentDecoder(decoder, decoder.feature_dim, latent_dim),
    )
