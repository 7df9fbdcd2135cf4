"""Pairs: the times between which a student was trained to map, and so what its samples may use."""

from enum import StrEnum
from typing import Literal

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


_SAMPLERS: dict[Pairs, tuple[SamplerName, ...]] = {
    Pairs.ANY_TO_ANY: ("chain", "renoise", "gamma"),
    Pairs.ANY_TO_DATA: ("renoise",),
    Pairs.POSTERIORS: ("chain", "renoise", "gamma", "kernel"),
    Pairs.POSTERIORS_TO_DATA: ("renoise", "kernel"),
    Pairs.TRANSITIONS: ("transition",),
}
