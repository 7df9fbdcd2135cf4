"""Laws of the two times of a flow map: it starts at t, lasts delta and ends at s = t - delta."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow.checks import check_counts, check_numbers
from freeflow_lightning.flow.distributions import LogitNormal, TimeDistribution, Uniform
from freeflow_lightning.flow.pairs import even_starts

_MEANFLOW = LogitNormal(-0.4, 1.0)  # of both times, and TVM's of s
_TVM_GAP = LogitNormal(-0.8, 1.0)
_EVEN = Uniform()


class Times(NamedTuple):
    """Start times and durations, float32 [B] each, 0 <= delta <= t <= 1."""

    t: Tensor
    delta: Tensor

    @property
    def s(self) -> Tensor:
        """End times t - delta, [B]."""
        return self.t - self.delta

    def move_to_prior(self, t_min: float) -> "Times":
        """Both times moved into [t_min, 1], while a student's own path is not yet to be trusted.

        With t_min falling from 1 to 0 (`confident_time`) the states widen from the prior. Raising t
        alone would break the descent of Eulerian forms.

        >>> Times(torch.tensor([0.5]), torch.tensor([0.5])).move_to_prior(0.5)
        Times(t=tensor([0.7500]), delta=tensor([0.2500]))
        """
        return Times(t_min + (1 - t_min) * self.t, (1 - t_min) * self.delta)


class TimePair(ABC):
    """A law of (t, s)."""

    @property
    def from_prior(self) -> bool:
        """Whether every map starts at t = 1: such a student takes one step."""
        return False

    @property
    def to_data(self) -> bool:
        """Whether every map ends at s = 0: such a student takes more steps by re-noising alone."""
        return False

    @property
    def starts(self) -> tuple[float, ...] | None:
        """The start times t, falling from 1, where they are a list; None where any time may be."""
        return None

    @abstractmethod
    def sample(self, n: int, generator: Generator) -> Times:
        """n draws on the generator's device."""


@dataclass(frozen=True)
class FromPrior(TimePair):
    """t = 1 and a law of delta: FreeFlow's pairs.

    >>> FromPrior(Uniform(0.5, 0.5)).sample(1, Generator())
    Times(t=tensor([1.]), delta=tensor([0.5000]))
    """

    delta: TimeDistribution

    @property
    def from_prior(self) -> bool:
        return True

    def sample(self, n: int, generator: Generator) -> Times:
        delta = self.delta.sample(n, generator)
        return Times(torch.ones_like(delta), delta)


@dataclass(frozen=True)
class ToData(TimePair):
    """A law of t and s = 0: the pairs of consistency models.

    >>> ToData(Uniform(0.5, 0.5)).sample(1, Generator())
    Times(t=tensor([0.5000]), delta=tensor([0.5000]))
    """

    t: TimeDistribution

    @property
    def to_data(self) -> bool:
        return True

    def sample(self, n: int, generator: Generator) -> Times:
        t = self.t.sample(n, generator)
        return Times(t, t)


@dataclass(frozen=True)
class PartOfPath(TimePair):
    """A law of t, and of the part delta / t of the way to data: FreeFlow's pairs from any start.

    >>> PartOfPath(Uniform(0.5, 0.5), Uniform(0.5, 0.5)).sample(1, Generator())
    Times(t=tensor([0.5000]), delta=tensor([0.2500]))
    """

    t: TimeDistribution
    part: TimeDistribution

    def sample(self, n: int, generator: Generator) -> Times:
        t = self.t.sample(n, generator)
        return Times(t, t * self.part.sample(n, generator))


@dataclass(frozen=True)
class SortedPair(TimePair):
    """Two draws of one law, t the larger (MeanFlow, whose law is the default).

    >>> times = SortedPair().sample(1000, Generator().manual_seed(0))
    >>> bool((times.delta >= 0).all() and (times.s > 0).all())
    True
    """

    law: TimeDistribution = _MEANFLOW

    def sample(self, n: int, generator: Generator) -> Times:
        one, other = self.law.sample(n, generator), self.law.sample(n, generator)
        return Times(torch.maximum(one, other), (one - other).abs())


@dataclass(frozen=True)
class UniformStart(TimePair):
    """A law of s and t uniform on [s, 1], for which the step of Eulerian forms descends.

    >>> UniformStart(Uniform(1.0, 1.0)).sample(1, Generator())
    Times(t=tensor([1.]), delta=tensor([0.]))
    """

    s: TimeDistribution = _EVEN

    def sample(self, n: int, generator: Generator) -> Times:
        s = self.s.sample(n, generator)
        t = torch.lerp(s, torch.ones_like(s), Uniform().sample(n, generator))
        return Times(t, t - s)


@dataclass(frozen=True)
class Gap(TimePair):
    """A law of delta, and a logit-normal law of s given s <= 1 - delta; the defaults are TVM's.

    >>> times = Gap(Uniform(0.5, 0.5)).sample(1000, Generator().manual_seed(0))
    >>> bool((times.s <= 0.5).all())
    True
    """

    delta: TimeDistribution = _TVM_GAP
    s: LogitNormal = _MEANFLOW

    def sample(self, n: int, generator: Generator) -> Times:
        delta = self.delta.sample(n, generator)
        below = torch.special.ndtr((torch.logit(1 - delta) - self.s.mean) / self.s.std)
        normal = torch.special.ndtri(below * Uniform().sample(n, generator))
        s = torch.sigmoid(self.s.mean + self.s.std * normal)
        return Times(torch.clamp(s + delta, max=1), delta)


@dataclass(frozen=True)
class Grid(TimePair):
    """Two different times of the uniform grid of N steps, every pair as likely: those of chains.

    >>> Grid(1).sample(2, Generator())
    Times(t=tensor([1., 1.]), delta=tensor([1., 1.]))
    """

    steps: int

    def __post_init__(self) -> None:
        check_counts(1, steps=self.steps)

    @property
    def starts(self) -> tuple[float, ...]:
        return even_starts(self.steps)

    def sample(self, n: int, generator: Generator) -> Times:
        device = generator.device
        one = torch.randint(self.steps + 1, (n,), generator=generator, device=device)
        other = torch.randint(self.steps, (n,), generator=generator, device=device)
        other = other + (other >= one)  # any node but the first one
        t = torch.maximum(one, other)
        return Times(t.float() / self.steps, (one - other).abs().float() / self.steps)


@dataclass(frozen=True)
class WithDiagonal(TimePair):
    """s = t with the given probability, where F is the velocity itself; else a draw of `pair`.

    MeanFlow trains 75 % of its rows there; a student that starts as its teacher is right there from
    the first step, and a quarter is enough.

    >>> WithDiagonal(ToData(Uniform(0.5, 0.5)), 1.0).sample(1, Generator())
    Times(t=tensor([0.5000]), delta=tensor([0.]))
    """

    pair: TimePair
    probability: float = 0.25

    def __post_init__(self) -> None:
        check_numbers(0, 1, probability=self.probability)

    @property
    def from_prior(self) -> bool:
        return self.pair.from_prior

    @property
    def to_data(self) -> bool:
        return self.pair.to_data

    @property
    def starts(self) -> tuple[float, ...] | None:
        return self.pair.starts

    def sample(self, n: int, generator: Generator) -> Times:
        hit = Uniform().sample(n, generator) < self.probability
        t, delta = self.pair.sample(n, generator)
        return Times(t, torch.where(hit, 0.0, delta))
