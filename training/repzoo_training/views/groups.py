"""Groups of images that show one thing, each of which is a view of it.

The theory of SimVAE does not say that views are augmentations: they are whatever shares a content.
Photos of one product, frames of one scene or pages of one writer are views, too.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Groups"]


class Groups:
    """Draws images of the same group.

    Args:
        groups: The group of each image, int64 ``[N]``.
        device: Where to draw.
    """

    def __init__(self, groups: NDArray[np.int64], device: torch.device | str = "cpu") -> None:
        order = np.argsort(groups, kind="stable")  # [N]: the images, group by group
        found, first, count = np.unique(groups[order], return_index=True, return_counts=True)
        of = np.searchsorted(found, groups)  # [N]
        self._order, self._first, self._count = (
            torch.from_numpy(array).to(device) for array in (order, first[of], count[of])
        )

    def draw(self, indices: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """Return ``views`` images of the group of each image, int64 ``[B, J]``.

        The first is the image itself, so that every image is seen equally often as such. The others
        are independent and uniform over the group, which includes the image itself.

        Args:
            indices: Images, int64 ``[B]``.
            views: J.
            generator: Of the device of the groups.
        """
        shape = (len(indices), views - 1)
        uniform = torch.rand(shape, generator=generator, device=indices.device)  # [B, J-1]
        count, first = self._count[indices][:, None], self._first[indices][:, None]  # [B, 1]
        # In float32, u · count may round up to count.
        others = self._order[first + (uniform * count).long().clamp(max=count - 1)]  # [B, J-1]
        return torch.cat([indices[:, None], others], dim=1)
