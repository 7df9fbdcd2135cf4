"""What a training step is logged as: residuals by bin of delta and r, weights, losses, speed."""

import time

import torch
from torch import Tensor

from freeflow_lightning.objectives import Residual


def root_mean_square(residual: Residual) -> Tensor:
    """||error|| / sqrt(d) per sample, [B]: comparable over dimensions, 0 at the optimum, about 1
    for unit-scale states.
    """
    return residual.mean_square().sqrt()


def mean_by_bin(name: str, values: Tensor, place: Tensor, *, bins: int = 8) -> dict[str, Tensor]:
    """Mean of the values [B] in equal bins of their place [B] in [0, 1]; NaN for an empty bin.

    Every bin is named at every step: Lightning repeats the last value of a figure that is left out.

    >>> mean_by_bin("x", torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.1, 0.2, 1.0]), bins=2)
    {'x/0.00-0.50': tensor(2.), 'x/0.50-1.00': tensor(5.)}
    """
    bin_of = (place * bins).long().clamp(max=bins - 1)
    inside = bin_of == torch.arange(bins, device=place.device)[:, None]
    means = torch.where(inside, values, 0).sum(1) / inside.sum(1)  # bincount is not deterministic
    return {f"{name}/{k / bins:.2f}-{(k + 1) / bins:.2f}": means[k] for k in range(bins)}


class Speed:
    """Samples and network evaluations per second between two looks at the clock."""

    def __init__(self) -> None:
        self._batches = 0
        self._since = time.perf_counter()

    def restart(self) -> None:
        """Leave out what has passed, a validation for example."""
        self._batches, self._since = 0, time.perf_counter()

    def tick(self) -> None:
        """One more batch."""
        self._batches += 1

    def figures(self, samples_per_batch: int, evaluations_per_sample: float) -> dict[str, float]:
        """Rates since the last look; starts anew."""
        rate = self._batches * samples_per_batch / max(time.perf_counter() - self._since, 1e-9)
        self.restart()
        return {
            "speed/samples_per_s": rate,
            "speed/evaluations_per_s": rate * evaluations_per_sample,
        }
