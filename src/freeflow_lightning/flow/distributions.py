"""Distributions of delta and r on [0, 1], and the place of delta on the discrete grid."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow.checks import check_counts, check_numbers


class TimeDistribution(ABC):
    """A law on [0, 1]."""

    @abstractmethod
    def sample(self, n: int, generator: Generator) -> Tensor:
        """n draws, float32 [n] on the generator's device."""


@dataclass(frozen=True)
class LogitNormal(TimeDistribution):
    """sigmoid(mean + std * normal): the paper's law of r, LogitNormal(0.8, 1.6) (Table 1a), and
    part of the law of delta.

    >>> LogitNormal(0.0, 1.0).sample(2, Generator().manual_seed(0))
    tensor([0.8236, 0.4272])
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        check_numbers(-math.inf, mean=self.mean)
        check_numbers(0, std=self.std)

    def sample(self, n: int, generator: Generator) -> Tensor:
        normal = torch.randn(n, generator=generator, device=generator.device, dtype=torch.float32)
        return torch.sigmoid(self.mean + self.std * normal)


@dataclass(frozen=True)
class Uniform(TimeDistribution):
    """The uniform law on [low, high]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(0, 1, low=self.low)
        check_numbers(self.low, 1, high=self.high)

    def sample(self, n: int, generator: Generator) -> Tensor:
        return self.low + (self.high - self.low) * torch.rand(
            n, generator=generator, device=generator.device, dtype=torch.float32
        )


@dataclass(frozen=True)
class WithAtom(TimeDistribution):
    """`at` with the given probability, a draw of `base` otherwise: the law of delta, 10 % of it
    exactly 0 (Table 3).

    >>> (WithAtom(LogitNormal(0.0, 1.0), 0.1).sample(1000, Generator().manual_seed(0)) == 0).float().mean()
    tensor(0.1000)
    """

    base: TimeDistribution
    probability: float = 0.1
    at: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(0, 1, probability=self.probability, at=self.at)

    def sample(self, n: int, generator: Generator) -> Tensor:
        hit = (
            torch.rand(n, generator=generator, device=generator.device, dtype=torch.float32)
            < self.probability
        )
        return torch.where(hit, self.at, self.base.sample(n, generator))


@dataclass(frozen=True)
class TowardsPrior(TimeDistribution):
    """1 - U^power with U uniform on [0, 1]: more mass near t = 1 the larger the power.

    Meta Flow Maps (arXiv 2601.14430) take power 2 for the states that they condition on.

    >>> TowardsPrior(2.0).sample(1000, Generator().manual_seed(0)).mean()  # 1 - 1 / 3
    tensor(0.6634)
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        check_numbers(0, without_low=True, power=self.power)

    def sample(self, n: int, generator: Generator) -> Tensor:
        return 1 - Uniform().sample(n, generator) ** self.power


def floor_to_grid(delta: Tensor, steps: int) -> Tensor:
    """Find i in 0 .. steps - 1 with i / steps <= delta < (i + 1) / steps; delta = 1 gives the last.

    >>> floor_to_grid(torch.tensor([0.0, 0.124, 0.125, 1.0]), 8)
    tensor([0, 0, 1, 7])
    """
    check_counts(1, steps=steps)
    inner = torch.arange(1, steps, device=delta.device).to(delta.dtype) / steps
    return torch.bucketize(delta, inner, right=True)  # delta * steps would round some nodes down


class GridStep(NamedTuple):
    """The step of a uniform grid on [0, 1] in which a duration lies.

    Args:
        start: i / N, [B].
        end: (i + 1) / N, [B].
        is_first: whether i = 0, bool [B].
    """

    start: Tensor
    end: Tensor
    is_first: Tensor


def grid_step(delta: Tensor, steps: int) -> GridStep:
    """Find the step i / N <= delta < (i + 1) / N of N; delta = 1 is in the last.

    The grid is that of the discrete prediction: see Eq. 14.

    Args:
        delta: durations in [0, 1], [B].
        steps: N.

    >>> start, end, is_first = grid_step(torch.tensor([0.0, 0.124, 0.125, 1.0]), 8)
    >>> start, end
    (tensor([0.0000, 0.0000, 0.1250, 0.8750]), tensor([0.1250, 0.1250, 0.2500, 1.0000]))
    >>> is_first
    tensor([ True,  True, False, False])
    """
    i = floor_to_grid(delta, steps)
    place = i.to(delta.dtype)
    return GridStep(place / steps, (place + 1) / steps, i == 0)
