"""``zoo import``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from repzoo_training.commands.options import next_steps

if TYPE_CHECKING:
    from repzoo_training.importing.onnx_graphs import Pool
    from repzoo_training.importing.preprocessing import Filter, Fit

__all__ = ["import_"]


class _Size(click.ParamType[tuple[int, int]]):
    """A size such as ``224``, or ``224x336`` for height and width."""

    name = "size"

    def convert(
        self,
        value: str | tuple[int, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", value.strip())
        height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not (1 <= height <= 4096 and 1 <= width <= 4096):
            self.fail(f"{value!r} is not a size: write it as 224 or 224x336", param, ctx)
        return height, width


class _Numbers(click.ParamType[tuple[float, ...]]):
    """One number, or one per channel: ``0.5`` or ``0.485,0.456,0.406``."""

    name = "numbers"

    def convert(
        self,
        value: str | tuple[float, ...],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} are not numbers: write 0.5 or 0.485,0.456,0.406", param, ctx)


@click.command("import", epilog="Example: zoo import timm:vit_small_patch16_224 --out packages/vit")
@click.argument("source", metavar="SOURCE")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--name", help="The name of the model. Defaults to that of the source.")
@click.option(
    "--weights",
    default="pretrained",
    show_default=True,
    help="Of timm and torchvision models: pretrained, random (to try the command), or a "
    "safetensors file.",
)
@click.option("--size", type=_Size(), metavar="H[xW]", help="The size of the input in pixels.")
@click.option(
    "--resize",
    type=click.IntRange(1, 4096),
    metavar="PIXELS",
    help="Scale the shorter side to this length before the centre is cropped. Defaults to what "
    "timm or torchvision does, otherwise to the size of the input.",
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "squash"]),
    help="Keep the aspect ratio and crop, or squash the whole image.",
)
@click.option(
    "--filter",
    "filter_",
    type=click.Choice(["box", "bilinear", "bicubic", "lanczos"]),
    help="The filter for scaling. Defaults to that of the source, otherwise to bilinear.",
)
@click.option(
    "--mean", type=_Numbers(), metavar="R,G,B", help="The mean of pixels in [0, 1], per channel."
)
@click.option("--std", type=_Numbers(), metavar="R,G,B", help="Their standard deviation.")
@click.option("--output", metavar="NAME", help="The output of an ONNX file, if it has several.")
@click.option(
    "--pool",
    type=click.Choice(["none", "first", "mean"]),
    default="none",
    show_default=True,
    help="What to take of features [N, T, D] or [N, D, H, W]: the first token, or the mean.",
)
@click.option(
    "--keep-head", is_flag=True, help="Keep the last layer of a timm model: CLIP's projection."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="float16 halves the size of the package; computation stays in float32.",
)
@click.option(
    "--metric",
    type=click.Choice(["cosine", "euclidean"]),
    default="cosine",
    show_default=True,
    help="The recommended distance between embeddings.",
)
@click.option(
    "--licence", help="The licence of the weights, such as apache-2.0. Required unless timm has it."
)
@click.option("--origin", metavar="TEXT", help="Where the weights come from, for the card.")
@click.option("--summary", help="What the model is, in one sentence, for the card.")
@click.option("--paper", help="For the card, such as arXiv:2304.07193.")
def import_(
    source: str,
    out: Path,
    name: str | None,
    weights: str,
    size: tuple[int, int] | None,
    resize: int | None,
    fit: Fit | None,
    filter_: Filter | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    output: str | None,
    pool: Pool,
    keep_head: bool,
    precision: Literal["float32", "float16"],
    metric: Literal["cosine", "euclidean"],
    licence: str | None,
    origin: str | None,
    summary: str | None,
    paper: str | None,
) -> None:
    """Make a package of an image encoder from elsewhere, in the folder DIR.

    SOURCE is FILE.onnx, FILE.pt2 (from torch.export.save), timm:NAME or torchvision:NAME. Pickles
    and TorchScript are refused, because they can run code.
    """
    from repzoo_training.importing import import_encoder
    from repzoo_training.importing.preprocessing import Flags

    click.echo(f"importing {source}: a large model takes minutes", err=True)
    config = import_encoder(
        source,
        out,
        name=name,
        flags=Flags(size=size, mean=mean, std=std, resize=resize, fit=fit, filter=filter_),
        weights=weights,
        output=output,
        pool=pool,
        keep_head=keep_head,
        precision=precision,
        metric=metric,
        licence=licence,
        origin=origin,
        summary=summary,
        paper=paper,
    )
    height, width, channels = config.input.shape
    click.echo(
        f"imported: {out} ({config.name}, {height}x{width}x{channels} pixels, "
        f"{config.latent_dim} dimensions, {config.precision})"
    )
    next_steps(("zoo", "verify", out), ("zoo", "serve", "--models", out))
