"""Whether a teacher keeps a promise of Teacher, and the states on which it is asked to."""

from typing import Any, NamedTuple

from torch import Tensor


class ContractFinding(NamedTuple):
    """One promise and whether the teacher keeps it.

    Args:
        check: the promise in a word or two.
        evidence: what was seen.
        problem: what is broken and how to mend it; None where nothing is.
        cause: the teacher's own error, if it raised one.
    """

    check: str
    evidence: str
    problem: str | None = None
    cause: Exception | None = None

    def raise_if_broken(self) -> None:
        """Raise the problem as a ValueError."""
        if self.problem:
            raise ValueError(self.problem) from self.cause


class Probe(NamedTuple):
    """States [4, *sample_shape] at the times 1, 2/3, 1/3, 0, with their conditions."""

    x: Tensor
    t: Tensor
    condition: Any


SAME_UP_TO = 0.02
"""Relative difference up to which two evaluations are the same function: bfloat16 makes them differ
by less.
"""


def relative_gap(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||a||, 0 where both vanish."""
    size = float(a.float().norm())
    gap = float((a.float() - b.float()).norm())
    return gap / size if size else gap
