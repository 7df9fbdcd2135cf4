"""Precision and recall (as ADM's evaluator defines them), density and coverage: from
k-nearest-neighbour balls.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import check_counts

BLOCK = 1024


class Coverage(NamedTuple):
    """Fractions in [0, 1], except density, whose value at equal laws is 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(samples: Tensor, reference: Tensor, *, k: int = 3) -> Coverage:
    """Return how far samples [n, d] lie within the reference's [m, d] support, and the reference
    within theirs.

    The ball around a point reaches to its k-th neighbour of the same set. Precision is the fraction
    of samples inside any of the reference's balls, recall the fraction of the reference inside any
    of the samples' (Kynkaanniemi et al. 2019); density counts the balls around a sample, in units
    of k, and coverage the reference's balls with a sample inside (Naeem et al. 2020). Memory grows
    with n + m, not with their product.

    Raises:
        ValueError: k points or fewer on a side.

    >>> line = torch.arange(5.0)[:, None]
    >>> coverage(line, line, k=1)
    Coverage(precision=1.0, recall=1.0, density=2.6, coverage=1.0)
    """
    check_counts(1, k=k)
    if min(len(samples), len(reference)) <= k:
        raise ValueError(
            f"expected more than k = {k} samples on either side, got {len(samples)} and "
            f"{len(reference)}"
        )
    center = reference.double().mean(0)
    x, y = samples.double() - center, reference.double() - center
    radius_x, radius_y = _radii(x, k), _radii(y, k)
    balls: list[Tensor] = []  # of the reference around each sample
    is_recalled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    next_sample = torch.full_like(radius_y, torch.inf)
    for rows, distance in _blocks(x, y):
        balls.append((distance <= radius_y).sum(1))
        is_recalled |= (distance <= radius_x[rows, None]).any(0)
        next_sample = torch.minimum(next_sample, distance.amin(0))
    count = torch.cat(balls)
    density = count.double().mean() / k
    shares = (count > 0, is_recalled, next_sample <= radius_y)
    precision, recall, covered = (float(share.double().mean()) for share in shares)
    return Coverage(precision, recall, float(density), covered)


def nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Index [n] and distance [n] of the point [m, d] next to each query [n, d]."""
    nearest_of = [block.min(1) for _, block in _blocks(queries.double(), points.double())]
    return torch.cat([f.indices for f in nearest_of]), torch.cat([f.values for f in nearest_of])


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th neighbour, itself not counted, [n]."""
    return torch.cat([block.kthvalue(k + 1, dim=1).values for _, block in _blocks(points, points)])


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the matrix of distances, block by block."""
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, torch.cdist(x[rows], y)
