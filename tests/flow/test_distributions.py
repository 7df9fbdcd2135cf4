import math

import pytest
import torch

from freeflow_lightning.flow import LogitNormal, Uniform, WithAtom, floor_to_grid, grid_step

N = 100_000


def draw(law, n=N, seed=0):
    return law.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 1.0), (-0.4, 1.2), (0.8, 1.6)]
)  # Table 6's laws of delta and r
def test_logit_of_a_logit_normal_is_normal(mean, std):
    r = draw(LogitNormal(mean, std))
    normal = (torch.logit(r.double()) - mean) / std
    assert ((r > 0) & (r < 1)).all()
    assert abs(normal.mean()) < 5 / math.sqrt(N)
    assert abs(normal.var() - 1) < 5 * math.sqrt(2 / N)
    assert abs((normal < 1).double().mean() - 0.841345) < 5 * math.sqrt(0.841345 * 0.158655 / N)


def test_logit_normal_without_spread_is_the_sigmoid_of_its_mean():
    assert draw(LogitNormal(math.log(3), 0.0), 4).tolist() == pytest.approx([0.75] * 4)


def test_uniform_has_the_moments_of_its_interval():
    r = draw(Uniform(0.25, 0.75)).double()
    assert 0.25 <= r.min() < 0.251
    assert 0.749 < r.max() <= 0.75
    assert abs(r.mean() - 0.5) < 5 * 0.5 / math.sqrt(12 * N)
    assert abs(r.var() - 0.25 / 12) < 1e-3


@pytest.mark.parametrize(("probability", "at"), [(0.1, 0.0), (0.25, 1.0)])
def test_atom_has_its_probability_and_leaves_the_rest_of_the_law(probability, at):
    delta = draw(WithAtom(LogitNormal(-0.4, 1.2), probability, at))
    rest = torch.logit(delta[delta != at].double())
    share = 1 - len(rest) / N
    assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / N)
    assert abs(rest.mean() + 0.4) < 5 * 1.2 / math.sqrt(len(rest))
    assert abs(rest.std() - 1.2) < 0.02


def test_atom_of_probability_0_or_1_is_the_base_or_the_atom():
    assert (draw(WithAtom(Uniform(), 1.0, 0.5), 100) == 0.5).all()
    assert (draw(WithAtom(Uniform(0.5, 1.0), 0.0), 100) > 0).all()


@pytest.mark.parametrize("law", [LogitNormal(0.0, 1.0), Uniform(), WithAtom(LogitNormal(0.0, 1.0))])
def test_draws_are_float32_and_belong_to_the_generator(law):
    assert draw(law, 8).dtype == torch.float32
    assert torch.equal(draw(law, 8), draw(law, 8))
    assert not torch.equal(draw(law, 8), draw(law, 8, seed=1))


@pytest.mark.parametrize(
    "build",
    [
        lambda: LogitNormal(0.0, -1.0),
        lambda: LogitNormal(0.0, math.nan),
        lambda: Uniform(0.5, 0.4),
        lambda: Uniform(-0.1, 1.0),
        lambda: Uniform(0.0, 1.1),
        lambda: WithAtom(Uniform(), 1.1),
        lambda: WithAtom(Uniform(), 0.1, 2.0),
    ],
)
def test_impossible_laws_are_refused(build):
    with pytest.raises(ValueError, match="expected"):
        build()


def test_floor_to_grid_by_hand():
    delta = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.74, 0.75, 0.9999, 1.0])
    assert floor_to_grid(delta, 4).tolist() == [0, 0, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("steps", [1, 2, 8, 22, 61, 100])
def test_floor_to_grid_brackets_delta(steps):
    delta = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    i = floor_to_grid(delta, steps)
    assert (i / steps <= delta).all()
    assert (delta < (i + 1) / steps).all()


def test_floor_to_grid_is_exact_on_every_node():
    for steps in range(1, 129):
        nodes = torch.arange(steps) / steps
        assert torch.equal(floor_to_grid(nodes, steps), torch.arange(steps)), steps


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_step_of_a_grid_ends_one_node_after_its_start(steps):
    delta = torch.linspace(0, 1, 101)
    start, end, is_first = grid_step(delta, steps)
    torch.testing.assert_close(end - start, torch.full_like(delta, 1 / steps))
    assert (start <= delta).all()
    assert (delta <= end).all()
    assert torch.equal(is_first, start == 0)
    assert end[-1] == 1
