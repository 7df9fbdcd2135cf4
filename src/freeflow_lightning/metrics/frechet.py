"""The Fréchet distance between two sets of features: exact, in float64, by symmetric eigenproblems."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from freeflow_lightning.flow import check_counts

_ROUND_OFF = 1e-6
"""Negative eigenvalues up to this fraction of the matrix's size are round-off and count as 0."""


class Moments(NamedTuple):
    """Mean [d] and unbiased covariance [d, d], float64."""

    mean: Tensor
    covariance: Tensor


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
    """The symmetric square root of a covariance, [d, d] to float64 [d, d].

    Raises:
        ValueError: an eigenvalue below -1e-6 times the largest one, or NaN: not a covariance.

    >>> square_root(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
    tensor([[2., 0.],
            [0., 3.]], dtype=torch.float64)
    """
    values, vectors = torch.linalg.eigh(_finite(sigma.double()))
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
    _finite(torch.stack([mu1, mu2]), "mean")
    root1 = square_root(sigma1) if root1 is None else root1
    size = (
        torch.linalg.matrix_norm(sigma1)
        * torch.maximum(torch.linalg.matrix_norm(sigma1), torch.linalg.matrix_norm(sigma2))
    )  # not the product's own: it is round-off alone where the supports are orthogonal or the samples all the same
    cross = (
        _without_round_off(torch.linalg.eigvalsh(_finite(root1 @ sigma2 @ root1)), size)
        .sqrt()
        .sum()
    )
    return ((mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * cross).clamp(min=0)


def _finite(moment: Tensor, name: str = "covariance") -> Tensor:
    """The tensor; NaN and infinite entries are refused (LAPACK's answer to them ranges from NaN to
    a crash).
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


class FrechetDistance(Metric):
    """Fréchet distance between the features of real (reference) and fake samples, used as
    torchmetrics' FID.

    The states are float64 sums, named and laid out as in torchmetrics' FrechetInceptionDistance:
    batches, merges of states and processes add up exactly. The result is float64, at least 0. The
    square root of the reference's covariance is kept until that covariance changes.

    Args:
        features: network in eval mode, samples [B, ...] to features [B, d], with d in its attribute
            `num_features`.
        reset_real_features: let `reset` forget the reference as well.

    >>> from freeflow_lightning.metrics import FlatFeatures
    >>> metric = FrechetDistance(FlatFeatures(1))
    >>> metric.update(torch.tensor([[0.0], [2.0]]), real=True)
    >>> metric.update(torch.tensor([[3.0], [5.0]]), real=False)
    >>> metric.compute()
    tensor(9., dtype=torch.float64)
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = True  # `forward` by adding states would count a kept reference twice

    real_features_sum: Tensor
    real_features_cov_sum: Tensor
    real_features_num_samples: Tensor
    fake_features_sum: Tensor
    fake_features_cov_sum: Tensor
    fake_features_num_samples: Tensor

    def __init__(self, features: nn.Module, reset_real_features: bool = False) -> None:
        super().__init__()
        d = getattr(features, "num_features", None)
        if not isinstance(d, int):
            raise ValueError(
                f"expected a feature network with an integer `num_features`, its output's width, "
                f"got {d!r}"
            )
        check_counts(1, num_features=d)
        self.features, self.num_features, self.reset_real_features = (
            features,
            d,
            reset_real_features,
        )
        for kind in ("real", "fake"):
            self.add_state(
                f"{kind}_features_sum", torch.zeros(d, dtype=torch.float64), dist_reduce_fx="sum"
            )
            self.add_state(
                f"{kind}_features_cov_sum",
                torch.zeros(d, d, dtype=torch.float64),
                dist_reduce_fx="sum",
            )
            self.add_state(f"{kind}_features_num_samples", torch.tensor(0), dist_reduce_fx="sum")
        self._covariance_and_root: tuple[Tensor, Tensor] | None = None

    def set_reference(self, moments: Moments, count: int = 1_000_000) -> None:
        """Reset, and compare with these moments from now on, as if `count` samples with them had
        been seen (it cancels out).

        In a distributed run do so on one rank only, and `reset` on the others: states are summed
        over the ranks.

        Raises:
            ValueError: moments of another width.

        >>> from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
        >>> metric = FrechetDistance(FlatFeatures(1))
        >>> metric.set_reference(Moments(torch.tensor([1.0]), torch.tensor([[2.0]])), 5)
        >>> metric.update(torch.tensor([[3.0], [5.0]]), real=False)
        >>> metric.compute()
        tensor(9., dtype=torch.float64)
        """
        mean, covariance = (x.to(self.real_features_sum) for x in moments)
        if mean.shape != (self.num_features,):
            raise ValueError(
                f"expected moments of {self.num_features} features, got {tuple(mean.shape)}: "
                f"another network's"
            )
        check_counts(2, count=count)
        _finite(mean, "mean")
        _finite(covariance)
        self.reset()
        self.real_features_sum = mean * count
        self.real_features_cov_sum = covariance * (count - 1) + count * torch.outer(mean, mean)
        self.real_features_num_samples = torch.tensor(count, device=mean.device)

    def update(self, images: Tensor, real: bool) -> None:
        """Add samples, [B, ...] as `features` takes them, to the reference (`real`) or to what is
        measured against it.

        Raises:
            ValueError: features that are not [B, d], or not finite.
        """
        f = self._extract(images)
        if real:
            self.real_features_sum += f.sum(dim=0)
            self.real_features_cov_sum += f.mT @ f
            self.real_features_num_samples += len(f)
        else:
            self.fake_features_sum += f.sum(dim=0)
            self.fake_features_cov_sum += f.mT @ f
            self.fake_features_num_samples += len(f)

    def compute(self) -> Tensor:
        """The distance, float64 [].

        Raises:
            RuntimeError: fewer than two samples of either kind, as torchmetrics' FID.
        """
        n_real, n_fake = int(self.real_features_num_samples), int(self.fake_features_num_samples)
        if n_real < 2 or n_fake < 2:
            raise RuntimeError(
                f"expected at least two real and two fake samples, got {n_real} and {n_fake}: "
                "update(images, real=True) adds to the reference, update(images, real=False) to "
                "what is measured"
            )
        mu1, sigma1 = mean_and_covariance(
            self.real_features_sum, self.real_features_cov_sum, n_real
        )
        mu2, sigma2 = mean_and_covariance(
            self.fake_features_sum, self.fake_features_cov_sum, n_fake
        )
        return frechet_distance(mu1, sigma1, mu2, sigma2, root1=self._root(sigma1))

    def reset(self) -> None:
        """Forget the samples; the reference only with `reset_real_features`."""
        kept = (
            {}
            if self.reset_real_features
            else {k: v for k, v in self.metric_state.items() if k.startswith("real_")}
        )
        super().reset()
        for name, value in kept.items():
            setattr(self, name, value)

    def _extract(self, images: Tensor) -> Tensor:
        """Features as float64 [B, d], without gradients and outside autocast (bfloat16 features
        move the distance).
        """
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            f = self.features(images)
        if f.shape != (len(images), self.num_features):
            raise ValueError(
                f"expected features of shape {(len(images), self.num_features)}, got "
                f"{tuple(f.shape)}"
            )
        bad = int((~torch.isfinite(f).all(dim=1)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(f)} samples have NaN or infinite features: the samples or the "
                f"network are at fault"
            )
        return f.double()

    def _root(self, covariance: Tensor) -> Tensor:
        """square_root(covariance), from the last call if that was for the same matrix."""
        last = self._covariance_and_root
        if (
            last is None
            or last[0].device != covariance.device
            or not torch.equal(last[0], covariance)
        ):
            last = self._covariance_and_root = covariance, square_root(covariance)
        return last[1]
