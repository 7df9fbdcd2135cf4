"""Means and covariances of features, and the Fréchet distance between two, exact in float64."""

import logging
from typing import NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_ROUND_OFF = 1e-6
"""Negative eigenvalues up to this fraction of the matrix's size are round-off and count as 0."""

WITHOUT_FLOAT64 = ("mps",)
"""Devices that have no such numbers."""


class Moments(NamedTuple):
    """Mean [d] and unbiased covariance [d, d], float64."""

    mean: Tensor
    covariance: Tensor


def in_float64(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU where its device has no such numbers."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()


def mean_and_covariance(features_sum: Tensor, cov_sum: Tensor, n: Tensor | int) -> Moments:
    """mu = s / n and Sigma = (C - n mu mu^T) / (n - 1) from the sums s = sum f [d] and C = sum f
    f^T [d, d] over n samples.

    Raises:
        ValueError: fewer than two samples.

    >>> mean_and_covariance(torch.tensor([4.0]), torch.tensor([[10.0]]), 2)  # the samples 1 and 3
    Moments(mean=tensor([2.], dtype=torch.float64), covariance=tensor([[2.]], dtype=torch.float64))
    """
    if n < 2:
        raise ValueError(f"expected at least two samples for a covariance, got {int(n)}")
    mean = features_sum.double() / n
    return Moments(mean, (cov_sum.double() - n * torch.outer(mean, mean)) / (n - 1))


def square_root(sigma: Tensor) -> Tensor:
    """Return the symmetric square root of a covariance, [d, d] to float64 [d, d].

    Raises:
        ValueError: an eigenvalue below -1e-6 times the largest one, or NaN: not a covariance.

    >>> square_root(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
    tensor([[2., 0.],
            [0., 3.]], dtype=torch.float64)
    """
    values, vectors = torch.linalg.eigh(check_moment(sigma.double()))
    return (vectors * _without_round_off(values, values[-1]).sqrt()) @ vectors.mT


def frechet_distance(
    mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor, *, root1: Tensor | None = None
) -> Tensor:
    """|mu1 - mu2|^2 + tr(Sigma1 + Sigma2 - 2 (Sigma1^1/2 Sigma2 Sigma1^1/2)^1/2): W2^2 of two
    Gaussians, float64 [].

    Singular covariances are fine. Round-off below 0 at equal moments is returned as 0.

    Args:
        mu1, mu2: means, [d].
        sigma1, sigma2: covariances, [d, d].
        root1: `square_root(sigma1)` where the caller has it already; at d = 2048 it is more than
            half of the work.

    Raises:
        ValueError: a matrix that is no covariance (an eigenvalue clearly below 0, or NaN).

    >>> frechet_distance(torch.zeros(2), torch.eye(2), torch.tensor([3.0, 4.0]), 4 * torch.eye(2))  # 25 + 2 (2 - 1)^2
    tensor(27., dtype=torch.float64)
    """
    mu1, sigma1, mu2, sigma2 = (a.double() for a in (mu1, sigma1, mu2, sigma2))
    check_moment(torch.stack([mu1, mu2]), "mean")
    root1 = square_root(sigma1) if root1 is None else root1
    # not the product's own: it is round-off alone where the supports are orthogonal or the samples
    # all the same
    size = torch.linalg.matrix_norm(sigma1) * torch.maximum(
        torch.linalg.matrix_norm(sigma1), torch.linalg.matrix_norm(sigma2)
    )
    cross = (
        _without_round_off(torch.linalg.eigvalsh(check_moment(root1 @ sigma2 @ root1)), size)
        .sqrt()
        .sum()
    )
    return ((mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * cross).clamp(min=0)


def check_moment(moment: Tensor, name: str = "covariance") -> Tensor:
    """Return the tensor; NaN and infinite entries are refused (LAPACK's answer to them ranges from
    NaN to a crash).
    """
    if not bool(torch.isfinite(moment).all()):
        raise ValueError(
            f"expected a finite {name}, got NaN or infinite entries: look at the features it was "
            f"made of"
        )
    return moment


def _without_round_off(values: Tensor, size: Tensor) -> Tensor:
    """Eigenvalues with tiny negative ones at 0; others below 0 are refused."""
    if bool((values < -_ROUND_OFF * size).any()):
        raise ValueError(
            f"expected a positive semi-definite covariance, got an eigenvalue {values.min():.3g} "
            f"at size {size:.3g}: if the features' mean dwarfs their spread, subtract it in the "
            "feature network"
        )
    return values.clamp(min=0)


def warn_of_few_samples(samples: int, features: int) -> None:
    """Warn where a Frechet distance is of fewer samples than features: their covariance has no full
    rank, and the distance is far too high.
    """
    if samples < features:
        log.warning(
            "FID of %d samples in %d features: with fewer samples than features it is mostly "
            "bias; compare at least %d",
            samples,
            features,
            10 * features,
        )
