"""What one round of a bench measures, and the mean of several."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

Rows = dict[str, dict[str, float]]
"""Samples evaluated in one step, by network and kind (forward, backward, ...: see NetworkCall)."""


class Round(NamedTuple):
    """Seconds of one training step in the Trainer, of the method alone, of the bare evaluations and
    of Adam, on one draw.
    """

    step: float
    method: float
    evaluations: float
    optimizer: float
    rows: Rows

    @property
    def floor(self) -> float:
        """What no step can do without."""
        return self.evaluations + self.optimizer


def mean_round(rounds: Sequence[Round]) -> Round:
    """Return the round of the average step."""
    return Round(
        fmean(each.step for each in rounds),
        fmean(each.method for each in rounds),
        fmean(each.evaluations for each in rounds),
        fmean(each.optimizer for each in rounds),
        mean_rows(rounds),
    )


def mean_rows(rounds: Sequence[Round]) -> Rows:
    """Rows of the average step."""
    total: Rows = {}
    for measured in rounds:
        for name, kinds in measured.rows.items():
            sums = total.setdefault(name, {})
            for kind, n in kinds.items():
                sums[kind] = sums.get(kind, 0) + n
    return {
        name: {kind: n / len(rounds) for kind, n in kinds.items()} for name, kinds in total.items()
    }
