"""Pairs: the times between which a student was trained to map, and so what its samples may use."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Literal, NamedTuple

from freeflow_lightning.flow.checks import check_numbers

SamplerName = Literal["chain", "renoise", "gamma", "kernel", "transition"]
"""The ways to sample in more steps than one: see `sampling.jumps.Jumps`."""


class Pairs(StrEnum):
    """Which (t, s) the maps f(x, t, s) of a student were trained on; t = 1 is the prior, s = 0
    data.

    >>> Pairs.PRIOR_TO_ANY.value, Pairs("any to any").samplers
    ('prior to any', ('chain', 'renoise', 'gamma'))
    """

    PRIOR_TO_DATA = "prior to data"
    PRIOR_TO_ANY = "prior to any"
    ANY_TO_ANY = "any to any"
    ANY_TO_DATA = "any to data"
    POSTERIORS = "any to any, of every posterior"
    POSTERIORS_TO_DATA = "any to data, of every posterior"
    TRANSITIONS = "transitions to data"

    @property
    def samplers(self) -> tuple[SamplerName, ...]:
        """The ways to sample in more than one step; empty if one step is all that was trained."""
        return _SAMPLERS.get(self, ())

    @property
    def leads_between(self) -> bool:
        """Whether noise is mapped to times between too, along the teacher's path.

        >>> Pairs.PRIOR_TO_ANY.leads_between, Pairs.ANY_TO_DATA.leads_between
        (True, False)
        """
        return self in (Pairs.PRIOR_TO_ANY, Pairs.ANY_TO_ANY, Pairs.POSTERIORS)


_SAMPLERS: dict[Pairs, tuple[SamplerName, ...]] = {
    Pairs.ANY_TO_ANY: ("chain", "renoise", "gamma"),
    Pairs.ANY_TO_DATA: ("renoise",),
    Pairs.POSTERIORS: ("chain", "renoise", "gamma", "kernel"),
    Pairs.POSTERIORS_TO_DATA: ("renoise", "kernel"),
    Pairs.TRANSITIONS: ("transition",),
}


class Trained(NamedTuple):
    """What the maps of a student were trained for.

    Args:
        pairs: between which times.
        starts: the start times t, falling from 1, where they were a list; None where any time of
            `pairs` was drawn.

    >>> Trained(Pairs.ANY_TO_DATA, (1.0, 0.75, 0.5, 0.25)).numbers(range(1, 9))
    [1, 2, 4]
    """

    pairs: Pairs
    starts: tuple[float, ...] | None = None

    @property
    def sampler(self) -> SamplerName:
        """How more steps than one are joined where nothing is said."""
        return (self.pairs.samplers or ("chain",))[0]

    def starts_of(self, steps: int) -> tuple[float, ...] | None:
        """The times that so many steps start at: evenly spaced, or the list itself where it has as
        many; None where the student knows no such times.
        """
        even = even_starts(steps)
        if self.starts is None or _holds(self.starts, even):
            return even
        return self.starts if steps == len(self.starts) else None

    def numbers(self, candidates: Iterable[int]) -> list[int]:
        """Which of these numbers of steps the student can take, by one of its samplers or
        another.
        """
        several = bool(self.pairs.samplers)
        return [k for k in candidates if k == 1 or (several and self.starts_of(k) is not None)]


def even_starts(steps: int) -> tuple[float, ...]:
    """The times 1, 1 - 1/k, ..., 1/k that k steps start at.

    >>> even_starts(4)
    (1.0, 0.75, 0.5, 0.25)
    """
    return tuple(k / steps for k in range(steps, 0, -1))


def check_starts(starts: Sequence[float]) -> None:
    """Refuse start times that do not fall from 1 to above 0 (ValueError)."""
    for t in starts:
        check_numbers(0, 1, without_low=True, times=t)
    falls = all(t > s for t, s in pairwise(starts))
    if not starts or starts[0] != 1 or not falls:
        raise ValueError(
            f"expected times that fall from 1, such as [1.0, 0.75, 0.5, 0.25], got {list(starts)}"
        )


def _holds(starts: Sequence[float], wanted: Sequence[float]) -> bool:
    """Whether all the wanted times are there, but for rounding."""
    return all(any(abs(t - start) < 1e-6 for start in starts) for t in wanted)
