"""Schedules: pure functions of the optimizer step."""

import math

from freeflow_lightning.flow.checks import check_counts, check_numbers


def confident_time(step: int, *, warmup_steps: int = 10_000) -> float:
    """t_c(n): linear from 1 to 0 over the warmup (App. A.1, Table 6 "confident region warmup
    duration").

    >>> confident_time(2500), confident_time(20_000)
    (0.75, 0.0)
    """
    check_counts(0, warmup_steps=warmup_steps)
    return max(0.0, 1.0 - step / warmup_steps) if warmup_steps > 0 else 0.0


def alpha(
    step: int,
    *,
    reference: float = 0.3,
    delay_steps: int = 10_000,
    warmup_steps: int = 10_000,
    decay_steps: float = math.inf,
) -> float:
    r"""The strength of the correction at step n: delayed, warmed up, decayed (App. A.3).

    $$\alpha(n) = \alpha_\mathrm{ref}\,
      \mathrm{clip}\left(\frac{n - T_\mathrm{delay}}{T_\mathrm{warmup}}, 0, 1\right) \Big/
      \sqrt{\max(n / T_\mathrm{decay}, 1)}$$

    The defaults are SiT's column of Table 6; REPA's has reference 0.6 and decay_steps 25_000.

    >>> alpha(15_000), alpha(100_000, reference=0.6, decay_steps=25_000)
    (0.15, 0.3)
    """
    check_numbers(0, alpha_ref=reference)
    check_counts(0, delay_steps=delay_steps, warmup_steps=warmup_steps)
    if decay_steps != math.inf:
        check_numbers(0, without_low=True, decay_steps=decay_steps)
    ramp = _ramp(step, delay_steps, warmup_steps)
    return reference * ramp / math.sqrt(max(step / decay_steps, 1.0))


def later_share(step: int, *, delay_steps: int, warmup_steps: int = 0) -> float:
    """The share of corrected maps that may start after the prior: 0, then linear to 1.

    >>> [later_share(step, delay_steps=100, warmup_steps=50) for step in (99, 125, 200)]
    [0.0, 0.5, 1.0]
    """
    check_counts(0, delay_steps=delay_steps, warmup_steps=warmup_steps)
    return _ramp(step, delay_steps, warmup_steps)


def _ramp(step: int, delay_steps: int, warmup_steps: int) -> float:
    """0 until the delay is over, then linear to 1."""
    if warmup_steps == 0:
        return float(step >= delay_steps)
    return min(max((step - delay_steps) / warmup_steps, 0.0), 1.0)


def tangent_share(step: int, *, warmup_steps: int = 10_000, most: float = 1.0) -> float:
    """r(n): linear from 0 to `most` over the warmup of a tangent (sCD; AYF-EMD stops at 0.99).

    >>> tangent_share(2500), tangent_share(20_000, most=0.99)
    (0.25, 0.99)
    """
    check_numbers(0, 1, most=most)
    check_counts(0, warmup_steps=warmup_steps)
    return most * min(1.0, step / warmup_steps) if warmup_steps > 0 else most


def falling_rate(step: float, total_steps: float, decay_steps: float) -> float:
    """Factor on a learning rate after `step` steps: 1, and along half a cosine to 0 over the last
    `decay_steps` of the run.

    >>> [round(falling_rate(step, 10, 4), 2) for step in (0, 6, 8, 10)]
    [1.0, 1.0, 0.5, 0.0]
    """
    if not decay_steps:
        return 1.0
    fallen = (step - (total_steps - decay_steps)) / decay_steps
    return (1 + math.cos(math.pi * min(max(fallen, 0.0), 1.0))) / 2
