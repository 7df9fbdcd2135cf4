import math

import pytest
import torch

from freeflow_lightning.flow import (
    FromPrior,
    Gap,
    Grid,
    LogitNormal,
    PartOfPath,
    SortedPair,
    ToData,
    Uniform,
    UniformStart,
    WithAtom,
    WithDiagonal,
)

N = 100_000
PAIRS = [
    FromPrior(WithAtom(LogitNormal(0.0, 1.0))),
    ToData(LogitNormal(0.8, 1.6)),
    PartOfPath(WithAtom(Uniform(0.05), 0.5, 1.0), Uniform()),
    SortedPair(),
    SortedPair(Uniform()),
    UniformStart(),
    Gap(),
    Gap(Uniform(), LogitNormal(3.0, 2.0)),
    Grid(8),
    WithDiagonal(SortedPair(), 0.5),
]


def draw(pair, n=N, seed=0):
    return pair.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_law_stays_in_the_triangle(pair):
    t, delta = draw(pair)
    assert t.shape == delta.shape == (N,)
    assert t.dtype == delta.dtype == torch.float32
    assert t.max() <= 1
    assert delta.min() >= 0
    assert (t - delta).min() >= 0
    assert torch.equal(t - delta, draw(pair).s)
    assert not torch.equal(t + delta, sum(draw(pair, seed=1)))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_what_a_law_says_of_its_ends_is_so(pair):
    times = draw(pair)
    assert bool((times.t == 1).all()) == pair.from_prior
    assert bool((times.s == 0).all()) == pair.to_data
    mixed = WithDiagonal(pair, 0.3)
    assert (mixed.from_prior, mixed.to_data) == (pair.from_prior, pair.to_data)


def test_the_sorted_pair_of_a_uniform_law_fills_the_triangle_evenly():
    t, delta = draw(SortedPair(Uniform()))
    assert t.mean() == pytest.approx(2 / 3, abs=5e-3)
    assert delta.mean() == pytest.approx(1 / 3, abs=5e-3)
    assert (delta > 0.5).float().mean() == pytest.approx(0.25, abs=7e-3)


def test_mean_flow_s_law_is_the_default_of_the_sorted_pair():
    times = draw(SortedPair())
    normal = torch.logit(torch.cat([times.t, times.s]).double())
    assert normal.mean() == pytest.approx(-0.4, abs=0.02)
    assert normal.std() == pytest.approx(1.0, abs=0.02)


def test_the_start_is_uniform_above_the_end():
    times = draw(UniformStart(Uniform(0.25, 0.5)))
    assert times.s.min() >= 0.25
    part = times.delta / (1 - times.s)
    assert part.mean() == pytest.approx(0.5, abs=5e-3)
    assert part.var() == pytest.approx(1 / 12, abs=2e-3)


def test_the_gap_is_its_law_and_the_end_is_logit_normal_below_it():
    delta = math.log(0.3 / 0.7)
    times = draw(Gap(LogitNormal(delta, 0.0), LogitNormal(-0.4, 1.0)))
    torch.testing.assert_close(times.delta, torch.full((N,), 0.3))
    below = LogitNormal(-0.4, 1.0).sample(4 * N, torch.Generator().manual_seed(7))
    below = below[below <= 0.7]
    quantiles = torch.linspace(0.05, 0.95, 19)
    expected = torch.quantile(below[:N], quantiles)
    torch.testing.assert_close(torch.quantile(times.s, quantiles), expected, atol=6e-3, rtol=0)


def test_the_part_of_the_path_is_relative_to_the_start():
    t, delta = draw(PartOfPath(Uniform(0.2, 0.4), LogitNormal(0.5, 1.0)))
    assert torch.logit((delta / t).double()).mean() == pytest.approx(0.5, abs=0.02)


def test_every_pair_of_nodes_of_the_grid_is_as_likely():
    t, delta = draw(Grid(4))
    pairs, counts = torch.stack([4 * t, 4 * delta], 1).unique(dim=0, return_counts=True)
    assert len(pairs) == 10
    assert torch.equal(pairs, pairs.round())
    torch.testing.assert_close(counts / N, torch.full((10,), 0.1), atol=6e-3, rtol=0)


def test_the_diagonal_has_its_share_and_leaves_the_starts():
    t, delta = draw(WithDiagonal(ToData(Uniform(0.5, 1.0)), 0.25))
    assert (delta == 0).float().mean() == pytest.approx(0.25, abs=7e-3)
    assert torch.equal(delta[delta > 0], t[delta > 0])
    assert t[delta == 0].mean() == pytest.approx(0.75, abs=5e-3)
    assert not (draw(WithDiagonal(PAIRS[3], 0.0), 100).delta == 0).any()


def test_near_the_prior_both_times_are_drawn_up():
    times = draw(SortedPair(Uniform()))
    near = times.move_to_prior(0.75)
    assert near.s.min() >= 0.75
    torch.testing.assert_close((near.s - 0.75) * 4, times.s, atol=1e-6, rtol=0)
    assert torch.equal(times.move_to_prior(0.0).t, times.t)
    prior = times.move_to_prior(1.0)
    assert (prior.t == 1).all()
    assert (prior.delta == 0).all()


def test_impossible_laws_are_refused():
    with pytest.raises(ValueError, match="steps to be an integer of at least 1"):
        Grid(0)
    with pytest.raises(ValueError, match="probability to be a finite number from 0 to 1"):
        WithDiagonal(SortedPair(), 1.5)
