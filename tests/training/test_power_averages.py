import numpy as np
import pytest

from freeflow_lightning.training.power_averages import (
    LONGEST,
    PowerProfile,
    combine_profiles,
    find_exponent,
    power_decay,
)


def weights_of(step, exponent):
    """What the update makes of the weights of each step, by running it on unit vectors."""
    total = np.zeros(step)
    for t in range(1, step + 1):
        decay = power_decay(t, exponent)
        total = decay * total
        total[t - 1] += 1 - decay
    return total


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2])
def test_the_length_is_the_deviation_of_the_profile_over_the_run(length):
    w, place = weights_of(4000, find_exponent(length)), (np.arange(4000) + 0.5) / 4000
    mean = w @ place
    assert np.sqrt(w @ (place - mean) ** 2) == pytest.approx(length, rel=1e-3)


def test_the_update_has_the_closed_form_of_a_power_and_the_longest_is_the_plain_mean():
    t, gamma = np.arange(1, 51), 6.94
    expected = (t ** (gamma + 1) - (t - 1) ** (gamma + 1)) / 50 ** (gamma + 1)
    np.testing.assert_allclose(weights_of(50, gamma), expected, atol=1e-12)
    np.testing.assert_allclose(weights_of(50, find_exponent(LONGEST)), 1 / 50, rtol=1e-6)


@pytest.mark.parametrize("length", [0.03, 0.075, 0.15, 0.25])
def test_snapshots_of_two_lengths_make_the_profile_of_a_third(length):
    known = [find_exponent(each) for each in (0.05, 0.1)]
    held = [PowerProfile(step, gamma) for step in range(100, 3201, 100) for gamma in known]
    wanted = PowerProfile(3200, find_exponent(length))
    made = combine_profiles(wanted, held)
    assert sum(made.coefficients) == pytest.approx(1)
    direct, total = weights_of(*wanted), np.zeros(3200)
    for coefficient, profile in zip(made.coefficients, held, strict=True):
        total[: profile.step] += coefficient * weights_of(*profile)
    off = np.linalg.norm(total - direct) / np.linalg.norm(direct)
    assert off == pytest.approx(made.error, abs=2e-3)  # what it says of itself
    assert off < 0.05


def test_more_snapshots_are_closer_and_lengths_outside_are_refused():
    gamma = find_exponent(0.1)
    errors = []
    for n in (2, 8, 32):
        held = [PowerProfile(3200 * k // n, gamma) for k in range(1, n + 1)]
        errors.append(combine_profiles(PowerProfile(3200, find_exponent(0.15)), held).error)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 0.05
    for length in (0, 0.3, -1):
        with pytest.raises(ValueError, match=r"in \(0, 0\.2887\]"):
            find_exponent(length)
