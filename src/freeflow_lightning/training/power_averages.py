"""Averages by power functions of the step: two are tracked, any other length is made of their
snapshots afterwards (post-hoc EMA, Karras et al. 2023, arXiv 2312.02696, section 3).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST = 12**-0.5
"""The length of the mean over the whole run, whose exponent is 0."""


class PowerProfile(NamedTuple):
    """How much the weights of each step count in an average: (gamma + 1) tau^gamma / t^(gamma + 1)
    for those of step tau, up to step t.

    Args:
        step: t, in optimizer steps since the average was begun, at least 1.
        exponent: gamma, at least 0.
    """

    step: int
    exponent: float


class Combination(NamedTuple):
    """An average as a sum of others.

    Args:
        coefficients: of each, summing to 1.
        error: distance of the two profiles, relative to the wanted one's norm; 0 where they agree.
    """

    coefficients: tuple[float, ...]
    error: float


def find_exponent(length: float) -> float:
    """Return the exponent gamma of an average of the given length: the standard deviation of its
    profile, as a share of the run, is sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)).

    Args:
        length: in (0, 0.2886]; 0.1 is an average over the last tenth, roughly.

    Raises:
        ValueError: another length.

    >>> round(find_exponent(0.1), 2), round(find_exponent(0.05), 2)
    (6.94, 16.97)
    """
    if not 0 < length <= LONGEST:
        raise ValueError(
            f"expected the length of an average as a share of the run, in (0, {LONGEST:.4f}], got "
            f"{length}"
        )
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    return max(0.0, float(roots.real.max()))


def power_decay(step: int, exponent: float) -> float:
    """Return the factor of the old average at its update number `step`, from 1 on: (1 - 1 /
    t)^(gamma + 1).

    >>> power_decay(1, 6.94), round(power_decay(100, 6.94), 4)
    (0.0, 0.9233)
    """
    return (1 - 1 / step) ** (exponent + 1)


def combine_profiles(wanted: PowerProfile, held: Sequence[PowerProfile]) -> Combination:
    """Return the sum of held averages whose profile is closest to the wanted one, in least squares.

    The coefficients sum to 1, so that a weight which has not moved stays what it is.

    >>> made = combine_profiles(PowerProfile(8, 2.0), [PowerProfile(4, 2.0), PowerProfile(8, 2.0)])
    >>> [round(abs(x), 6) for x in (*made.coefficients, made.error)]
    [0.0, 1.0, 0.0]
    """
    profiles = [*held, wanted]
    gram = inner_products(profiles)
    scale = np.sqrt(np.diag(gram))
    gram = gram / scale / scale[:, None]
    n = len(held)
    sums = scale[-1] / scale[:n]  # of a coefficient on a normalised profile
    system = np.block([[gram[:n, :n], sums[:, None]], [sums, np.zeros((1, 1))]])
    solution = np.linalg.lstsq(system, np.append(gram[:n, n], 1.0), rcond=1e-15)[0][:n]
    difference = np.append(solution, -1.0)
    error = float(np.sqrt(max(0.0, difference @ gram @ difference)))
    return Combination(tuple(map(float, solution * sums)), error)


def inner_products(profiles: Sequence[PowerProfile]) -> NDArray[np.float64]:
    """Return the integrals of the products of every two profiles, [N, N]."""
    step = np.array([profile.step for profile in profiles], dtype=np.float64)
    power = np.array([profile.exponent for profile in profiles])
    shared = np.minimum(step, step[:, None]) / step  # of the column's profile
    joint = shared**power * (shared.T ** power[:, None])
    scale = (power + 1) * (power[:, None] + 1) / (power + power[:, None] + 1)
    product: NDArray[np.float64] = scale * joint / np.maximum(step, step[:, None])
    return product
