"""What one round of a bench measures, the samples counted in it, and the mean of several."""

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
            for kind, n in kinds.items():
                add_rows(total, name, kind, n)
    return {
        name: {kind: n / len(rounds) for kind, n in kinds.items()} for name, kinds in total.items()
    }


def add_rows(total: Rows, network: str, kind: str, n: float) -> None:
    """Add n samples of a network and kind to what has been counted."""
    kinds = total.setdefault(network, {})
    kinds[kind] = kinds.get(kind, 0) + n
