"""The oracle of Fig. 8: it reads the metric itself, and picks for each sample the candidate that
FID wants next.
"""

from typing import final

import torch
from torch import Tensor

from freeflow_lightning.flow import check_counts
from freeflow_lightning.metrics import Moments

_NOTHING = 1e-10
"""Directions with less than this fraction of the largest variance have none."""


@final
class FrechetOracle:
    """Picks one candidate of each sample, in the order of samples, so that the picks together come
    close to a reference.

    With mean m and covariance S of the picks so far, a further sample f of weight w changes FID to
    the reference (m_R, R) by w times

        2 (m - m_R) . a + a^T (I - T) a + w / 2 (|a|^2 + sum_ij a_i^2 a_j^2 / (r_i + r_j)),        a = f - m,

    up to what is the same for all f and to second order. T = R^1/2 (R^1/2 S R^1/2)^-1/2 R^1/2 is
    the optimal transport from N(., S) to N(., R); the last sum, in R's own directions with their
    variances r, is its metric (Bures) at S = R. The candidate with the smallest change is taken.
    This is no verifier of single samples: what it wants of a sample depends on those before it. It
    is privileged (it knows the statistics that it is judged by), and so an upper bound.

    Args:
        reference: moments of the features that FID is measured to.
        weight: samples that the reference counts for among the picks: so early picks, too, are
            judged by a whole covariance.
        refresh: picks after which T is computed again.

    >>> unit = Moments(torch.zeros(1), torch.ones(1, 1))
    >>> FrechetOracle(unit).pick(torch.tensor([[[2.0], [2.0]], [[2.0], [-2.0]]]))  # the second sample makes up for the first
    tensor([0, 1])
    """

    def __init__(self, reference: Moments, weight: int = 256, refresh: int = 16) -> None:
        check_counts(1, weight=weight, refresh=refresh)
        if not all(bool(torch.isfinite(part).all()) for part in reference):
            raise ValueError("expected a reference of finite moments, got NaN or infinite entries")
        self.reference = Moments(*(part.double() for part in reference))
        self.weight = weight
        self.refresh = refresh

    def pick(self, features: Tensor) -> Tensor:
        """Return the number of the candidate that is taken for each sample, [n], from features
        [candidates, n, d].
        """
        values, directions = torch.linalg.eigh(self.reference.covariance)
        variances = torch.where(values > _NOTHING * values[-1], values, 0.0)
        pairs = variances + variances[:, None]
        metric = torch.where(pairs > 0, 1 / pairs, 0.0)
        placed = (features.cpu().double() - self.reference.mean) @ directions
        total, squares = torch.zeros_like(variances), self.weight * variances.diag()
        picked = []
        for i, candidates in enumerate(placed.unbind(1)):
            count = self.weight + i
            mean = total / count
            if i % self.refresh == 0:
                bend = torch.eye(len(variances)) - _transport(
                    variances.sqrt(), squares / count - torch.outer(mean, mean)
                )
            away = candidates - mean
            square = away.square()
            second = (square.sum(1) + ((square @ metric) * square).sum(1)) / (2 * (count + 1))
            picked.append(int((2 * away @ mean + ((away @ bend) * away).sum(1) + second).argmin()))
            best = candidates[picked[-1]]
            total, squares = total + best, squares + torch.outer(best, best)
        return torch.tensor(picked)


def _transport(root: Tensor, covariance: Tensor) -> Tensor:
    """R^1/2 (R^1/2 S R^1/2)^-1/2 R^1/2 for the diagonal `root` [d] of R^1/2; directions that R has
    not stay 0.
    """
    values, vectors = torch.linalg.eigh(root[:, None] * covariance * root)
    inverse = torch.where(values > _NOTHING**2 * values[-1], values.clamp(min=1e-300).rsqrt(), 0.0)
    return root[:, None] * ((vectors * inverse) @ vectors.mT) * root
