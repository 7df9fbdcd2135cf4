"""StudentEMA: moving averages of the trained network, saved beside the raw weights and used for
samples and metrics.
"""

from collections.abc import Sequence

from freeflow_lightning.callbacks.averages import MovingAverages
from freeflow_lightning.flow import check_numbers


def average_name(decay: float) -> str:
    """Return the name of an average in the checkpoint.

    >>> average_name(0.9999)
    'ema_0_9999'
    """
    return f"ema_{decay}".replace(".", "_")


def decay_at(step: int, decay: float) -> float:
    """Return the decay after `step` updates: it rises as (1 + n) / (10 + n) up to `decay`, so that
    early averages forget fast.

    >>> round(decay_at(1, 0.9999), 3), decay_at(10**6, 0.9999)
    (0.182, 0.9999)
    """
    return min(decay, (1 + step) / (10 + step))


class StudentEMA(MovingAverages):
    """Exponential moving averages.

    Args:
        decays: one decay in [0, 1) per average.
        warmup: let each decay rise from 2 / 11 as (1 + n) / (10 + n) in the first n steps, up to
            its value. Without it the decay is the same from the first step on, as in the paper, and
            the initial weights count for decay^n: 37 % at step 10,000 of 0.9999.
    """

    def __init__(self, decays: Sequence[float] = (0.9999,), warmup: bool = True) -> None:  # Table 6
        if not isinstance(decays, Sequence) or not decays or len(set(decays)) < len(decays):
            raise ValueError(f"expected decays to be one or more different numbers, got {decays!r}")
        for decay in decays:
            check_numbers(0, 1, without_high=True, decay=decay)
        self.decays = tuple(decays)
        self.warmup = warmup
        self._decay_of = {average_name(decay): decay for decay in decays}
        super().__init__(list(self._decay_of))

    def decay(self, name: str, step: int) -> float:
        highest = self._decay_of[name]
        return decay_at(step, highest) if self.warmup else highest
