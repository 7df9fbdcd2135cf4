"""Sampling in k steps against closed forms: at the exact map of a Gaussian mixture a chain is the teacher's path, and fresh
noise keeps the law."""

import math
from functools import partial

import pytest
import torch

from freeflow_lightning.flow import Grid, Pairs, Trained, bridge, renoise, sample_posterior, solve
from freeflow_lightning.sampling.jumps import Jumps, fresh_noise
from freeflow_lightning.teachers import GaussianMixtureTeacher

MEANS, STD, COUNT = (-1.5, 1.0), 0.4, 4000
TEACHER = GaussianMixtureTeacher([[mean] for mean in MEANS], STD)


def exact(x, t, s, steps=64):
    """The mixture's own map; all rows share their times."""
    grid = torch.linspace(float(t[0]), float(s[0]), steps + 1, dtype=torch.float64)
    return solve(lambda x, t, _: TEACHER.velocity(x, t, None), x, method="rk4", grid=grid)


def noise(count=COUNT):
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, generator=g, dtype=torch.float64)


def distance_to_the_mixture(x) -> float:
    """Kolmogorov's distance of samples [N, 1] to the mixture of equal weights."""
    x = x.flatten().sort().values
    cdf = sum(torch.erf((x - mean) / (STD * math.sqrt(2))) / 2 + 0.5 for mean in MEANS) / 2
    steps = torch.arange(len(x) + 1, dtype=x.dtype) / len(x)
    return float(torch.maximum((steps[1:] - cdf).abs(), (cdf - steps[:-1]).abs()).max())


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_a_chain_of_the_exact_map_is_the_teachers_path(steps):
    z = noise(200)
    end = solve(lambda x, t, _: TEACHER.velocity(x, t, None), z, method="rk4", steps=100)
    torch.testing.assert_close(Jumps(steps)(exact, z), end, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "jumps",
    [
        Jumps(2, "renoise"),
        Jumps(4, "renoise"),
        Jumps(2, "gamma"),
        Jumps(4, "gamma", 0.3),
        Jumps(4, "gamma", 0.9),
    ],
    ids=lambda jumps: jumps.name,
)
def test_fresh_noise_at_the_exact_map_keeps_the_law(jumps):
    """Critical at 1 %: 1.63 / sqrt(4000) = 0.026. A spread of the noise that is 10 % too large is 0.03 off and more."""
    z, f = noise(), partial(exact, steps=12)
    x = jumps(f, z)
    assert distance_to_the_mixture(x) < 0.026
    mean, variance = sum(MEANS) / 2, STD**2 + (MEANS[1] - MEANS[0]) ** 2 / 4
    assert float(x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / COUNT))
    assert float(x.var()) == pytest.approx(variance, rel=0.05)
    assert (x - Jumps()(f, z)).abs().mean() > 0.1  # not the same samples


def test_gamma_is_a_chain_without_noise_and_renoises_with_all_of_it():
    z = noise(20)
    assert torch.equal(Jumps(4, "gamma", 0.0)(exact, z), Jumps(4)(exact, z))
    assert torch.equal(Jumps(4, "gamma", 1.0)(exact, z), Jumps(4, "renoise")(exact, z))
    assert Jumps(4, "gamma").share == 0.5


def line(x, t, s):
    """A map that tells its times apart."""
    return x * (1 + 10 * t + 100 * s)[:, None]


def test_each_sampler_by_hand():
    z, n = noise(6), noise(12)[6:]
    half, one, zero = (torch.full((6,), value, dtype=z.dtype) for value in (0.5, 1.0, 0.0))
    quarter = half / 2

    def first(step):
        assert step == 0
        return n

    x = line(line(z, one, half), half, zero)
    torch.testing.assert_close(Jumps(2)(line, z, first), x)
    x = line(renoise(line(z, one, zero), n, half), half, zero)
    torch.testing.assert_close(Jumps(2, "renoise")(line, z, first), x)
    shrink = 0.5 / 0.75  # (1 - s) / (1 - s / 2) at s = 1/2
    y = shrink * line(z, one, quarter) + math.sqrt(0.25 - (shrink * 0.25) ** 2) * n
    torch.testing.assert_close(Jumps(2, "gamma", 0.5)(line, z, first), line(y, half, zero))


def test_a_kernel_by_hand_and_how_much_noise_it_takes():
    z, fresh = noise(6), noise(30).view(5, 6, 1)[1:]
    third = torch.full((6,), 1 / 3, dtype=z.dtype)
    draw = lambda e, x, t: e + 10 * x + 100 * t[:, None]
    x = renoise(draw(z, z, 3 * third), fresh[0], 2 * third)
    x = renoise(draw(fresh[1], x, 2 * third), fresh[2], third)
    by_hand = draw(fresh[3], x, third)
    seen = Jumps(3, "kernel")(line, z, lambda k: fresh[k], draw)
    torch.testing.assert_close(seen, by_hand, rtol=1e-6, atol=1e-6)
    assert [Jumps(k, "kernel").noises for k in (1, 2, 3)] == [0, 2, 4]
    assert [Jumps(3, "gamma").noises, Jumps(3).noises] == [2, 0]


def test_kernels_of_the_exact_posterior_keep_the_law():
    def draw(e, x, t):
        return sample_posterior(TEACHER.velocity, e, x, t, steps=8)

    x = Jumps(3, "kernel")(exact, noise(), draw=draw)
    assert distance_to_the_mixture(x) < 0.026  # critical at 1 %


def test_fresh_noise_is_a_function_of_the_row_and_the_step():
    z = torch.randn(300, 3, 2, generator=torch.Generator().manual_seed(1))
    whole = fresh_noise(z, 1)
    assert torch.equal(torch.cat([fresh_noise(part, 1) for part in z.split(7)]), whole)
    assert torch.equal(fresh_noise(z.flip(0), 1), whole.flip(0))
    assert not torch.isin(fresh_noise(z, 0), whole).any()
    both = torch.stack([z, whole, fresh_noise(z, 0), fresh_noise(z, 2)]).flatten(1)
    torch.testing.assert_close(torch.cov(both), torch.eye(4), rtol=0, atol=0.12)
    assert both.mean(1).abs().max() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0,), "expected steps to be an integer of at least 1, got 0"),
        (
            (2, "euler"),
            "expected a sampler of chain, renoise, gamma, kernel, transition, got 'euler'",
        ),
        ((2, "renoise", 0.5), "noise_share has no effect on the sampler 'renoise'"),
        ((2, "gamma", 1.5), "expected noise_share to be a finite number from 0 to 1, got 1.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Jumps(*settings)


@pytest.mark.parametrize(
    ("pairs", "allowed", "advice"),
    [
        (Pairs.ANY_TO_ANY, {"chain", "renoise", "gamma"}, ""),
        (Pairs.POSTERIORS, {"chain", "renoise", "gamma", "kernel"}, ""),
        (Pairs.TRANSITIONS, {"transition"}, "expected the sampler transition, got 2 steps"),
        (Pairs.POSTERIORS_TO_DATA, {"renoise", "kernel"}, "expected the sampler renoise or kernel"),
        (Pairs.ANY_TO_DATA, {"renoise"}, "from any to data alone: expected the sampler renoise"),
        (Pairs.PRIOR_TO_ANY, set(), "from prior to any alone: expected steps 1, got 2 steps"),
        (Pairs.PRIOR_TO_DATA, set(), "from prior to data alone: expected steps 1, got 2 steps"),
    ],
)
def test_what_was_not_trained_is_refused_and_what_was_is_named(pairs, allowed, advice):
    for sampler in ("chain", "renoise", "gamma", "kernel", "transition"):
        Jumps(1, sampler).at_trained_times(Trained(pairs))
        two = Jumps(2, sampler)
        if sampler in allowed:
            assert two.at_trained_times(Trained(pairs)) == two
        else:
            with pytest.raises(ValueError, match=advice):
                two.at_trained_times(Trained(pairs))


def test_steps_are_taken_at_the_times_of_a_trained_list_alone():
    four = Trained(Pairs.ANY_TO_DATA, (1.0, 0.75, 0.5, 0.25))
    for steps in (1, 2, 4):
        assert Jumps(steps, "renoise").at_trained_times(four).starts is None
    with pytest.raises(
        ValueError,
        match=r"at the times \[1.0, 0.75, 0.5, 0.25\] alone: expected steps 1 or 2 or 4, got 8",
    ):
        Jumps(8, "renoise").at_trained_times(four)
    assert four.numbers((1, 2, 4, 8)) == [1, 2, 4]
    assert Trained(Pairs.TRANSITIONS, Grid(3).starts).numbers(range(1, 9)) == [1, 3]
    assert Trained(Pairs.PRIOR_TO_DATA, (1.0,)).numbers((1, 2)) == [1]
    assert Jumps(2, "kernel").at_trained_times(Trained(Pairs.POSTERIORS, (1.0, 0.6))).starts is None

    uneven = Jumps(2, "renoise").at_trained_times(Trained(Pairs.ANY_TO_DATA, (1.0, 0.6)))
    asked = []
    uneven(lambda x, t, s: asked.append((round(float(t[0]), 6), float(s[0]))) or x, noise(4))
    assert asked == [(1.0, 0.0), (0.6, 0.0)]
    assert uneven.facts()["start times"] == [1.0, 0.6]
    with pytest.raises(ValueError, match=r"expected 3 start times, got \[1.0, 0.6\]"):
        Jumps(3, "renoise", starts=(1.0, 0.6))


def test_a_note_says_steps_and_sampler():
    assert Jumps().facts() == {}
    assert Jumps(4).facts() == {"steps": 4, "sampler": "chain"}
    assert Jumps(2, "gamma").facts() == {"steps": 2, "sampler": "gamma", "noise share": 0.5}


def test_transitions_of_the_exact_posterior_keep_the_law_and_take_noise_that_z_does_not_know():
    """With z itself as the inner noise the states would not have their times' laws."""

    def draw(e, x, t):
        return sample_posterior(TEACHER.velocity, e, x, t, steps=8)

    z = noise()
    assert distance_to_the_mixture(Jumps(3, "transition")(exact, z, draw=draw)) < 0.026
    fresh = [noise(8).flip(0) * k for k in (1, 2)]
    x = bridge(draw(fresh[0], z[:8], torch.ones(8)), z[:8], torch.ones(8), torch.full((8,), 0.5))
    x = draw(fresh[1], x, torch.full((8,), 0.5))
    seen = Jumps(2, "transition")(exact, z[:8], lambda k: fresh[k], draw)
    torch.testing.assert_close(seen, x, rtol=0, atol=1e-6)
    assert [Jumps(k, "transition").noises for k in (1, 2, 3)] == [0, 2, 3]
