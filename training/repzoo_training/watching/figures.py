"""Pictures of a model's output: reconstructions and samples, as PNG grids."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from repzoo.files import write_atomically
from torch import Tensor

from repzoo_training.objectives import Objective
from repzoo_training.randomness import generator
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.run import Run
from repzoo_training.views.views import Views

__all__ = ["Progress", "grid", "save_png"]

COLUMNS = 10
#: Small images are enlarged by an integer factor to at least this side, in pixels.
SIDE = 56


class Progress:
    """Redraws the pictures of a run as it trains, from its own random stream.

    ``reconstructions.png`` shows ten images: a row of originals, and then, for each of three views,
    a row of views and a row of reconstructions. ``samples.png`` shows decoded latents, drawn from a
    Gaussian fitted to the posterior means of the data.
    """

    def __init__(self, run: Run, recipe: Recipe, images: Tensor, make_views: Views) -> None:
        self.folder = run.figures
        draws = generator(recipe.seed, "figures", device=images.device)
        order = torch.randperm(len(images), generator=generator(recipe.seed, "figures"))
        self.originals = make_views.spec.finish(
            images[order[:COLUMNS].to(images.device)].float() / 255
        )
        self.views = make_views(images[order[:COLUMNS].to(images.device)], 3, draws)
        self.sample = make_views.spec.finish(images[order[:1000].to(images.device)].float() / 255)
        self.noise = torch.randn(
            (4 * COLUMNS, recipe.latent_dim), generator=draws, device=images.device
        )

    @torch.no_grad()
    def draw(self, objective: Objective) -> None:
        """Replace both pictures; does nothing for an objective without a decoder."""
        if objective.decoder is None:
            return
        objective.eval()
        means = objective.encoder(self.views.flatten(0, 1))[0]
        again = torch.sigmoid(objective.decoder(means)).view_as(self.views)
        rows = [self.originals]
        for j in range(self.views.shape[1]):
            rows += [self.views[:, j], again[:, j]]
        self._save("reconstructions", torch.stack(rows))
        means = objective.encoder(self.sample)[0]
        latents = means.mean(0) + means.std(0, correction=0) * self.noise
        samples = torch.sigmoid(objective.decoder(latents))
        self._save("samples", samples.unflatten(0, (4, COLUMNS)))
        objective.train()

    def _save(self, name: str, images: Tensor) -> None:
        save_png(self.folder / f"{name}.png", images.movedim(2, -1).cpu().numpy())


def grid(
    images: NDArray[np.float32], gap: int = 2, *, first_row_apart: bool = False
) -> Image.Image:
    """Arrange rows of images on white; NaN is drawn as black.

    Args:
        images: float32 ``[R, K, H, W, C]`` in [0, 1].
        gap: The number of pixels between images.
        first_row_apart: Separate the first row from the others by a wider gap.
    """
    R, K, H, W, C = images.shape  # noqa: N806
    scale = max(1, -(-SIDE // max(H, W)))
    pixels = (np.nan_to_num(np.clip(images, 0, 1)) * 255).round().astype(np.uint8)
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = H * scale + gap, W * scale + gap
    apart = 4 * gap if first_row_apart else 0
    canvas = np.full((R * height + gap + apart, K * width + gap, C), 255, np.uint8)
    for row in range(R):
        for column in range(K):
            top, left = row * height + gap + (apart if row else 0), column * width + gap
            canvas[top : top + H * scale, left : left + W * scale] = pixels[row, column]
    return Image.fromarray(canvas[..., 0] if C == 1 else canvas)


def save_png(path: Path, images: NDArray[np.float32], *, first_row_apart: bool = False) -> None:
    """Write :func:`grid` of ``[R, K, H, W, C]`` to ``path``, atomically.

    Colours are reduced to 256, which takes a third of the space and is not visible.
    """
    sheet = grid(images, first_row_apart=first_row_apart)
    if sheet.mode == "RGB":
        sheet = sheet.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())
