"""FrechetDistance: the distance between two sets of features, gathered batch by batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from freeflow_lightning.flow import check_counts
from freeflow_lightning.metrics.moments import (
    WITHOUT_FLOAT64,
    Moments,
    check_moment,
    frechet_distance,
    in_float64,
    mean_and_covariance,
    square_root,
)


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
        self.features = features
        self.num_features = d
        self.reset_real_features = reset_real_features
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
        check_moment(mean, "mean")
        check_moment(covariance)
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
        """Return the distance, float64 [].

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

    def _apply(self, fn: Any, exclude_state: Sequence[str] = "") -> nn.Module:
        """Move the network and the sums, which stay on the CPU where a device has no float64."""
        if fn(torch.zeros(1)).device.type in WITHOUT_FLOAT64:
            return nn.Module._apply(self, fn)
        return super()._apply(fn, exclude_state)

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
        return in_float64(f)

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
