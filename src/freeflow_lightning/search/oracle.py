"""The oracle of Fig. 8: it reads the metric itself, and picks for each sample the candidate that FID wants next."""

from typing import final

import torch
from torch import Tensor

from freeflow_lightning.metrics import Moments, square_root


@final
class FrechetOracle:
    """Picks one candidate of each sample, in the order of samples, so that the picks together come close to a reference.

    FID of the picks so far has the derivative I - T with respect to their covariance, with T = R^1/2 (R^1/2 S R^1/2)^-1/2 R^1/2
    the optimal transport from N(., S) to N(., R). A further sample f then changes FID, per unit of its weight w, by

        2 (m - m_R) . (f - m) + w |f - m|^2 + (f - m)^T (I - T) (f - m),

    and the candidate with the smallest change is taken. This is no verifier of single samples: what it wants of a sample
    depends on those before it. It is privileged, too (it knows the statistics that it is judged by), and so an upper bound.

    Args:
        reference: moments of the features that FID is measured to.
        weight: samples that the reference counts for among the picks: so early picks, too, are judged by a whole covariance.
        refresh: picks after which T is computed again.

    >>> unit = Moments(torch.zeros(1), torch.ones(1, 1))
    >>> FrechetOracle(unit).pick(torch.tensor([[[2.0], [2.0]], [[2.0], [-2.0]]]))  # the second sample makes up for the first
    tensor([0, 1])
    """

    def __init__(self, reference: Moments, weight: int = 256, refresh: int = 16) -> None:
        if weight < 1 or refresh < 1:
            raise ValueError(f"expected weight and refresh of at least 1, got {weight} and {refresh}")
        self.reference, self.weight, self.refresh = Moments(*(part.double() for part in reference)), weight, refresh

    def pick(self, features: Tensor) -> Tensor:
        """The number of the candidate that is taken for each sample, [n], from features [candidates, n, d]."""
        target, root = self.reference, square_root(self.reference.covariance)
        total = self.weight * target.mean
        squares = self.weight * (target.covariance + torch.outer(target.mean, target.mean))
        eye, picked = torch.eye(len(root), dtype=torch.float64), []
        for i, candidates in enumerate(features.double().cpu().unbind(1)):
            mean = total / (count := self.weight + i)
            if i % self.refresh == 0:
                bend = eye - _transport(root, squares / count - torch.outer(mean, mean))
            away = candidates - mean
            change = 2 * away @ (mean - target.mean) + away.square().sum(1) / (count + 1) + ((away @ bend) * away).sum(1)
            picked.append(int(change.argmin()))
            best = candidates[picked[-1]]
            total, squares = total + best, squares + torch.outer(best, best)
        return torch.tensor(picked)


def _transport(root: Tensor, covariance: Tensor) -> Tensor:
    """R^1/2 (R^1/2 S R^1/2)^-1/2 R^1/2 for root = R^1/2; directions that R has not stay 0."""
    values, vectors = torch.linalg.eigh(root @ covariance @ root)
    inverse = torch.where(values > 1e-10 * values[-1], values.clamp(min=1e-300).rsqrt(), 0.0)
    return root @ ((vectors * inverse) @ vectors.mT) @ root
