"""Group vectors that are close to each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import InvalidInput

__all__ = ["Group", "close_pairs", "grouped"]

_BLOCK = 1024
#: More pairs than this are not a list that anyone reads.
_MOST_PAIRS = 2_000_000

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


class Group(NamedTuple):
    """Images that are close to the first of them.

    Attributes:
        members: Two or more images; the first has the most close neighbours, the others follow by
            distance.
        distances: Their distances to the first.
    """

    members: list[int]
    distances: list[float]


def close_pairs(vectors: Floats, radius: float) -> tuple[Numbers, Numbers, Floats]:
    """Return all pairs (i, j) with i < j within ``radius``, and their distances: ``[P]`` each.

    Args:
        vectors: float32 ``[N, D]``.
        radius: The largest Euclidean distance.

    Raises:
        InvalidInput: If there are too many pairs.
    """
    left, right, distances = [], [], []
    norms = np.square(vectors).sum(axis=1)
    found = 0
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        rest = vectors[start:]
        squared = norms[start : start + _BLOCK, None] + norms[None, start:] - 2 * block @ rest.T
        # Rounding makes squared distances uncertain, so a few more are computed exactly.
        rows, columns = np.nonzero(squared <= radius**2 + 1e-5 * norms.max(initial=0))
        above = columns > rows
        rows, columns = rows[above], columns[above]
        exact = np.linalg.norm(block[rows] - rest[columns], axis=1)
        near = exact <= radius
        found += int(near.sum())
        if found > _MOST_PAIRS:
            raise InvalidInput(
                f"more than {_MOST_PAIRS:,} pairs are within {radius:.4g}: choose a smaller "
                "--distance"
            )
        left.append(rows[near] + start)
        right.append(columns[near] + start)
        distances.append(exact[near])
    return np.concatenate(left), np.concatenate(right), np.concatenate(distances)


def grouped(count: int, pairs: tuple[Numbers, Numbers, Floats]) -> list[Group]:
    """Group images around those with the most close neighbours; closest groups first.

    Every image is in one group at most, and within the radius of the group's first image. Chains,
    in which the ends are far from each other, are cut.

    Args:
        count: The number of images.
        pairs: The result of `close_pairs`.
    """
    near: dict[int, dict[int, float]] = {}
    for i, j, distance in zip(*(each.tolist() for each in pairs), strict=True):
        near.setdefault(i, {})[j] = near.setdefault(j, {})[i] = distance
    taken = np.zeros(count, bool)
    groups = []
    for first in sorted(near, key=lambda number: (-len(near[number]), number)):
        if taken[first]:
            continue
        free = [(distance, other) for other, distance in near[first].items() if not taken[other]]
        if not free:
            continue
        free.sort()
        members = [first, *(other for _, other in free)]
        taken[members] = True
        groups.append(Group(members, [0.0, *(distance for distance, _ in free)]))
    groups.sort(key=lambda group: (group.distances[1], group.members[0]))
    return groups
