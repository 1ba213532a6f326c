"""What a recipe says about its networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from repzoo_training.networks.resnet import Stem

__all__ = ["NetworkSpec"]

Kind: TypeAlias = Literal["mlp", "conv", "resnet18", "resnet50", "vit"]

#: What a kind has where nothing else is said.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"widths": (2000, 500, 500)},
    "conv": {"widths": (32, 64, 128, 256), "patch": 4},
    "resnet18": {"widths": (64, 128, 256, 512)},
    "resnet50": {"widths": (64, 128, 256, 512)},
    "vit": {"widths": (192,), "patch": 4, "depth": 12, "heads": 3},
}


class NetworkSpec(BaseModel):
    """An encoder, and the decoder that mirrors it.

    | kind       | widths            | stem            | patch | depth, heads |
    | ---------- | ----------------- | --------------- | ----- | ------------ |
    | `mlp`      | hidden layers     | –               | –     | –            |
    | `conv`     | stages            | –               | yes   | –            |
    | `resnet18` | stages            | small, imagenet | –     | –            |
    | `resnet50` | stages, 4 at most | small, imagenet | –     | –            |
    | `vit`      | that of a token   | –               | yes   | yes          |

    Attributes:
        kind: of network.
        widths: from the image on.
        stem: 3×3 of stride 1, or 7×7 of stride 2 and max-pooling.
        head: ``linear`` makes D numbers of the backbone's features; ``none`` takes these as the
            representation, the custom for ResNets in the field (D = 512 for ResNet-18).
        patch: side of a patch.
        depth: number of transformer blocks.
        heads: of each attention.

    Raises:
        ValueError: for settings that make no sense together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "mlp"
    widths: tuple[PositiveInt, ...] = Field(default=DEFAULTS["mlp"]["widths"], min_length=1)
    stem: Stem = "small"
    head: Literal["linear", "none"] = "linear"
    patch: PositiveInt | None = None
    depth: PositiveInt | None = None
    heads: PositiveInt | None = None

    @property
    def patch_side(self) -> int:
        """The side of a patch.

        Raises:
            ValueError: if the network sees none.
        """
        if self.patch is None:
            raise ValueError(f"a {self.kind} has no patches")
        return self.patch

    @property
    def transformer(self) -> tuple[int, int, int]:
        """(patch, depth, heads).

        Raises:
            ValueError: if the network is no vit.
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
        if self.kind.startswith("resnet"):
            self._check_resnet()
        elif self.stem != "small":
            raise ValueError(f"stem {self.stem!r} is a ResNet's, but the network is a {self.kind}")
        if self.kind == "vit":
            self._check_vit()
        elif (self.depth, self.heads) != (None, None):
            raise ValueError(
                f"depth and heads are a vit's, but the network is a {self.kind}: set them to "
                "null, or kind=vit"
            )
        elif self.kind != "conv" and self.patch is not None:
            raise ValueError(
                f"patches are a vit's or a conv's, but the network is a {self.kind}: set patch to "
                "null, or kind=vit"
            )
        return self

    def _check_resnet(self) -> None:
        if list(self.widths) != sorted(self.widths):
            raise ValueError(
                f"the stages of a {self.kind} do not narrow, but widths are {self.widths}; "
                f"usual are {DEFAULTS[self.kind]['widths']}"
            )
        if self.kind == "resnet50" and len(self.widths) > 4:
            raise ValueError(f"a resnet50 has at most 4 stages, but widths are {self.widths}")

    def _check_vit(self) -> None:
        if len(self.widths) != 1:
            raise ValueError(f"a vit has one width, as widths=[192], but widths are {self.widths}")
        width, (_, _, heads) = self.widths[0], self.transformer
        if width % 4 or width % heads:
            raise ValueError(
                f"a vit's width must be a multiple of 4 and of its {heads} heads, not {width}"
            )
