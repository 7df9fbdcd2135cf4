"""Balancing the two objectives: the per-sample decay of Delta_G and the adaptive weight lambda of
the correction.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from freeflow_lightning.flow.checks import check_numbers
from freeflow_lightning.flow.interpolant import expand
from freeflow_lightning.objectives.residual import Residual


def decay(residual: Residual, k: float, *, epsilon: float = 1e-4) -> Residual:
    r"""Delta <- Delta / (||Delta||^2 / d + epsilon)^k per sample (Sec. 5.1, Table 1d).

    $$\Delta \leftarrow \frac{\Delta}{(\lVert \Delta \rVert^2 / d + \epsilon)^k}$$

    Args:
        residual: the prediction residual.
        k: strength; 1 with both objectives (Table 6), 0.5 for prediction alone (Table 1d), 0 leaves
            it as it is.
        epsilon: the paper's 1e-4.

    >>> decay(Residual(torch.ones(1, 2), torch.full((1, 2), 0.5)), 1.0, epsilon=0.0).error
    tensor([[2., 2.]])
    """
    weight = (residual.mean_square() + epsilon) ** -k
    return residual._replace(error=expand(weight, residual.error) * residual.error)


def equalise(residual: Residual, scale: Tensor) -> Residual:
    """Delta <- Delta / scale(r) per sample, so that the law of r alone says how much each r counts
    (App. A.2).

    Args:
        residual: the correction residual, or the auxiliary's.
        scale: what a difference of network outputs is worth in u at r, [B] > 0; its square for the
            auxiliary's residual, whose loss is then that of the raw output: the minimiser of Eq. 12
            is the same.

    >>> equalise(Residual(torch.ones(1, 2), torch.full((1, 2), 3.0)), torch.tensor([2.0])).error
    tensor([[1.5000, 1.5000]])
    """
    return residual._replace(error=residual.error / expand(scale, residual.error))


def normalise(residual: Residual, c: float = 0.1) -> Residual:
    """Delta <- Delta / (||Delta|| / sqrt(d) + c) per sample (AYF, sCD): bounded, at any dimension.

    Args:
        residual: a map's residual.
        c: below which size an error counts by its size; the published 0.1.

    >>> normalise(Residual(torch.ones(1, 2), torch.full((1, 2), 0.4))).error
    tensor([[0.8000, 0.8000]])
    """
    check_numbers(0, without_low=True, c=c)
    return equalise(residual, residual.mean_square().sqrt() + c)


def weigh_by_duration(residual: Residual, delta: Tensor) -> Residual:
    """Delta <- delta Delta per sample: <f, Delta> in the place of <F, Delta>, as AYF publishes it.

    Args:
        residual: a map's residual, whose output is F.
        delta: durations t - s, [B].

    >>> weigh_by_duration(Residual(torch.ones(1, 1), torch.ones(1, 1)), torch.tensor([0.5])).error
    tensor([[0.5000]])
    """
    return residual._replace(error=expand(delta, residual.error) * residual.error)


class Weight(ABC):
    """How much the residual of a map counts in each sample, as a setting of a recipe."""

    @abstractmethod
    def __call__(self, residual: Residual, delta: Tensor, gamma: Tensor | None = None) -> Residual:
        """The residual with its weighted error.

        Args:
            residual: of the map.
            delta: durations t - s, [B].
            gamma: guidance scales, [B]; None where nothing is guided.
        """


@dataclass(frozen=True)
class Unweighted(Weight):
    """Every error as it is.

    >>> Unweighted()(Residual(torch.ones(1, 1), torch.ones(1, 1)), torch.ones(1)).error
    tensor([[1.]])
    """

    def __call__(self, residual: Residual, delta: Tensor, gamma: Tensor | None = None) -> Residual:
        return residual


@dataclass(frozen=True)
class Decay(Weight):
    """`decay` (FreeFlow, MeanFlow with k its p and epsilon its c / d).

    >>> Decay(0.5, 0.0)(Residual(torch.ones(1, 1), torch.full((1, 1), 4.0)), torch.ones(1)).error
    tensor([[1.]])
    """

    k: float = 1.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        check_numbers(0, k=self.k, epsilon=self.epsilon)

    def __call__(self, residual: Residual, delta: Tensor, gamma: Tensor | None = None) -> Residual:
        return decay(residual, self.k, epsilon=self.epsilon)


@dataclass(frozen=True)
class Normalise(Weight):
    """`normalise` (AYF, sCD).

    >>> Normalise()(Residual(torch.ones(1, 1), torch.full((1, 1), 0.4)), torch.ones(1)).error
    tensor([[0.8000]])
    """

    c: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(0, without_low=True, c=self.c)

    def __call__(self, residual: Residual, delta: Tensor, gamma: Tensor | None = None) -> Residual:
        return normalise(residual, self.c)


@dataclass(frozen=True)
class ByDuration(Weight):
    """`weigh_by_duration` after another weight (AYF).

    >>> half, one = torch.tensor([0.5]), torch.ones(1, 1)
    >>> ByDuration()(Residual(one, one), half).error
    tensor([[0.5000]])
    """

    weight: Weight = Unweighted()

    def __call__(self, residual: Residual, delta: Tensor, gamma: Tensor | None = None) -> Residual:
        return weigh_by_duration(self.weight(residual, delta, gamma), delta)


@dataclass(frozen=True)
class ByGuidance(Weight):
    """Delta <- Delta / gamma^2 per sample after another weight (TVM, arXiv 2511.19797).

    The square of Delta / gamma is what counts then: guided velocities are about gamma times as
    large.

    >>> two, one = torch.tensor([2.0]), torch.ones(1, 1)
    >>> ByGuidance()(Residual(one, one), one[0], two).error
    tensor([[0.2500]])
    """

    weight: Weight = Unweighted()

    def __call__(self, residual: Residual, delta: Tensor, gamma: Tensor | None = None) -> Residual:
        weighted = self.weight(residual, delta, gamma)
        if gamma is None:
            return weighted
        return weighted._replace(error=weighted.error / expand(gamma**2, weighted.error))


def split_batch(n: int, fraction: float) -> tuple[int, int]:
    """Cut a batch of n into prediction and correction rows (Table 6: 75 % and 25 %), at least one
    of each that is asked for.

    >>> split_batch(256, 0.25), split_batch(8, 0.0), split_batch(8, 1.0)
    ((192, 64), (8, 0), (0, 8))
    """
    check_numbers(0, 1, correction_fraction=fraction)
    if 0 < fraction < 1 and n < 2:
        raise ValueError(
            f"a batch of {n} cannot hold both objectives: use at least 2 samples per process"
        )
    correction = (
        round(n * fraction) if fraction in (0.0, 1.0) else min(max(round(n * fraction), 1), n - 1)
    )
    return n - correction, correction


def adaptive_lambda(
    delta_g: Tensor,
    delta_n: Tensor,
    alpha: float,
    *,
    mean_over_ranks: Callable[[Tensor], Tensor] = lambda x: x,
    epsilon: float = 1e-6,
) -> Tensor:
    r"""lambda = alpha E||Delta_G|| / (E||Delta_N|| + epsilon), the expectations over the global
    batch (Sec. 5.1).

    $$\lambda = \alpha \frac{\mathbb{E} \lVert \Delta_G \rVert}
      {\mathbb{E} \lVert \Delta_N \rVert + \epsilon}$$

    Args:
        delta_g: ||Delta_G|| per sample after its decay, [B_g].
        delta_n: ||Delta_N|| per sample, [B_n].
        alpha: the correction's relative strength.
        mean_over_ranks: averages a tensor over the processes; the identity on one.
        epsilon: the paper's 1e-6.

    Returns:
        lambda, a scalar.

    >>> adaptive_lambda(torch.tensor([2.0, 4.0]), torch.tensor([6.0]), 0.3)
    tensor(0.1500)
    """
    mean_g, mean_n = mean_over_ranks(torch.stack([delta_g.mean(), delta_n.mean()]))
    return alpha * mean_g / (mean_n + epsilon)
