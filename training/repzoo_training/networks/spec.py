"""The network section of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import nn

from repzoo_training.networks.resnet import Stem

__all__ = ["Network", "NetworkSpec", "register"]

#: The default settings of each kind of network.
DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": {"widths": (2000, 500, 500)},
    "conv": {"widths": (32, 64, 128, 256), "patch": 4},
    "resnet18": {"widths": (64, 128, 256, 512)},
    "resnet50": {"widths": (64, 128, 256, 512)},
    "vit": {"widths": (192,), "patch": 4, "depth": 12, "heads": 3},
}


class Network(NamedTuple):
    """Functions that build a network of your own.

    Attributes:
        encoder: ``encoder(spec, (C, H, W))`` returns a module: images float32 ``[N, C, H, W]`` ->
            features ``[N, F]``. Its attribute ``feature_dim`` is F.
        decoder: ``decoder(spec, (C, H, W))`` returns a module: features ``[N, F]`` -> logits of
            pixels ``[N, C, H, W]``. Its attribute ``feature_dim`` is F. Generative methods need it.
    """

    encoder: Callable[[NetworkSpec, tuple[int, int, int]], nn.Module]
    decoder: Callable[[NetworkSpec, tuple[int, int, int]], nn.Module] | None = None


#: The networks that were registered.
NETWORKS: dict[str, Network] = {}


def register(kind: str, network: Network) -> None:
    """Add a network of your own, for ``network.kind`` of a recipe.

    Raises:
        ValueError: If the name is taken.
    """
    if kind in DEFAULTS or kind in NETWORKS:
        raise ValueError(f"the network {kind!r} exists already: choose another name")
    NETWORKS[kind] = network


class NetworkSpec(BaseModel):
    """An encoder, and the decoder that mirrors it.

    A network that you registered reads ``widths`` and ``options`` as it likes.

    | kind       | widths            | stem            | patch | depth, heads |
    | ---------- | ----------------- | --------------- | ----- | ------------ |
    | `mlp`      | hidden layers     | –               | –     | –            |
    | `conv`     | stages            | –               | yes   | –            |
    | `resnet18` | stages            | small, imagenet | –     | –            |
    | `resnet50` | stages, 4 at most | small, imagenet | –     | –            |
    | `vit`      | of a token        | –               | yes   | yes          |

    Attributes:
        kind: The kind of network.
        widths: The widths of the layers, starting from the image.
        stem: A 3×3 convolution of stride 1, or a 7×7 convolution of stride 2 with max-pooling.
        head: ``linear`` maps the backbone's features to D numbers. ``none`` uses the features as
            the representation, as is customary for ResNets (D = 512 for ResNet-18).
        patch: The side of a patch, in pixels.
        depth: The number of transformer blocks.
        heads: The number of attention heads.
        options: The settings of a network of your own.

    Raises:
        ValueError: If settings contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(default="mlp", description="mlp, conv, resnet18, resnet50, vit or your own")
    widths: tuple[PositiveInt, ...] = Field(
        default=DEFAULTS["mlp"]["widths"],
        min_length=1,
        description="widths of the layers, starting from the image",
    )
    stem: Stem = Field(
        default="small", description="first layer of a ResNet: small (3x3) or imagenet (7x7)"
    )
    head: Literal["linear", "none"] = Field(
        default="linear",
        description="linear maps features to D; none uses the features as they are",
    )
    patch: PositiveInt | None = Field(default=None, description="side of a patch of a conv or vit")
    depth: PositiveInt | None = Field(default=None, description="number of blocks of a vit")
    heads: PositiveInt | None = Field(default=None, description="attention heads of a vit")
    options: dict[str, bool | int | float | str] = Field(
        default={}, description="settings of a network of your own"
    )

    @property
    def patch_side(self) -> int:
        """The side of a patch.

        Raises:
            ValueError: If the network has no patches.
        """
        if self.patch is None:
            raise ValueError(f"a {self.kind} has no patches")
        return self.patch

    @property
    def transformer(self) -> tuple[int, int, int]:
        """(patch, depth, heads).

        Raises:
            ValueError: If the network is not a vit.
        """
        if self.patch is None or self.depth is None or self.heads is None:
            raise ValueError(f"a {self.kind} has no patches, depth and heads")
        return self.patch, self.depth, self.heads

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        return {**DEFAULTS.get(str(given.get("kind", "mlp")), {}), **given}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind in NETWORKS:
            return self
        if self.kind not in DEFAULTS:
            known = ", ".join((*DEFAULTS, *NETWORKS))
            raise ValueError(f"unknown network {self.kind!r}: choose from {known}")
        if self.options:
            raise ValueError(f"a {self.kind} has no options: they are for networks of your own")
        if self.kind.startswith("resnet"):
            self._check_resnet()
        elif self.stem != "small":
            raise ValueError(f"stem {self.stem!r} needs a ResNet, but the network is a {self.kind}")
        if self.kind == "vit":
            self._check_vit()
        elif (self.depth, self.heads) != (None, None):
            raise ValueError(
                f"depth and heads need a vit, but the network is a {self.kind}: set them to null, "
                "or kind=vit"
            )
        elif self.kind != "conv" and self.patch is not None:
            raise ValueError(
                f"patches need a vit or a conv, but the network is a {self.kind}: set patch to "
                "null, or kind=vit"
            )
        return self

    def _check_resnet(self) -> None:
        if list(self.widths) != sorted(self.widths):
            raise ValueError(
                f"the widths of a {self.kind} must not decrease, got {self.widths}; the default is "
                f"{DEFAULTS[self.kind]['widths']}"
            )
        if self.kind == "resnet50" and len(self.widths) > 4:
            raise ValueError(f"a resnet50 has at most 4 stages, got widths {self.widths}")

    def _check_vit(self) -> None:
        if len(self.widths) != 1:
            raise ValueError(f"a vit has one width, such as widths=[192], got {self.widths}")
        width, (_, _, heads) = self.widths[0], self.transformer
        if width % 4 or width % heads:
            raise ValueError(
                f"the width of a vit must be a multiple of 4 and of its {heads} heads, got {width}"
            )
