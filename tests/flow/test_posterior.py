"""Posterior flows against the posterior of a mixture, a mixture that is known row by row."""

import math

import pytest
import torch

from freeflow_lightning.flow import (
    bridge,
    glass,
    glass_transition,
    inner_grid,
    interpolate,
    renoise,
    sample_posterior,
    solve,
)
from freeflow_lightning.teachers import GaussianMixtureTeacher

PLANE = GaussianMixtureTeacher(
    torch.tensor([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.2]], dtype=torch.float64),
    [0.3, 0.5, 0.2],
    [0.5, 0.3, 0.2],
)
LINE = GaussianMixtureTeacher(
    torch.tensor([[1.2], [-1.0], [0.1]], dtype=torch.float64),
    [0.25, 0.4, 0.15],
    [0.45, 0.35, 0.2],
)
N = 4000
CRITICAL = 1.63 / math.sqrt(N)  # Kolmogorov-Smirnov, one percent


def inner_velocity(mixture, y, s):
    """E[X - e | (1 - s) X + s e = y] for X of each row's mixture, s > 0: component by component."""
    s, variance = s[:, None], mixture.stds**2
    v = (1 - s) ** 2 * variance + s**2
    offset = y[:, None] - (1 - s)[..., None] * mixture.means
    logits = mixture.log_weights - 0.5 * (y.shape[1] * v.log() + offset.square().sum(-1) / v)
    data = mixture.means + ((1 - s) * variance / v)[..., None] * offset
    noise = (s / v)[..., None] * offset
    return (logits.softmax(1)[..., None] * (data - noise)).sum(1)


def by_force(y, s, x, t):
    return inner_velocity(PLANE.posterior(x, t), y, s)


def transition_by_force(y, s, x, t):
    """The same for Y = (X - x) / t, another mixture."""
    posterior = PLANE.posterior(x, t)
    means = (posterior.means - x[:, None]) / t[:, None, None]
    return inner_velocity(posterior._replace(means=means, stds=posterior.stds / t[:, None]), y, s)


FORCE = {glass: by_force, glass_transition: transition_by_force}


def batch(n=256, dtype=torch.float64):
    """y, s, x, t: an inner state of each kind and a state of p_t, from the same sample."""
    g = torch.Generator().manual_seed(0)
    s, t = 0.02 + 0.96 * torch.rand(2, n, generator=g, dtype=torch.float64)
    x0 = PLANE.sample(n, g)
    z, e = torch.randn(2, n, 2, generator=g, dtype=torch.float64)
    states = interpolate(x0, e, s), s, interpolate(x0, z, t), t
    return tuple(state.to(dtype) for state in states)


@pytest.mark.parametrize("velocity", FORCE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_one_call_of_the_velocity_is_the_posteriors(velocity, dtype, tolerance):
    exact = FORCE[velocity](*batch())
    value = velocity(PLANE.velocity, *batch(dtype=dtype))
    assert value.dtype == dtype
    assert ((value - exact).norm() / exact.norm()).item() < tolerance
    if dtype == torch.float64:
        torch.testing.assert_close(value, exact, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("velocity", FORCE)
def test_the_velocity_is_asked_once_and_less_noisily_than_both_states(velocity):
    asked = []
    y, s, x, t = batch()
    velocity(lambda x, t: (asked.append(t), PLANE.velocity(x, t))[1], y, s, x, t)
    assert len(asked) == 1
    assert (asked[0] <= t).all()
    assert (asked[0] >= 0).all()
    if velocity is glass:
        assert (asked[0] <= s).all()


def test_the_ends_of_the_inner_flow():
    y, s, x, t = batch()
    one, zero, u = torch.ones_like(s), torch.zeros_like(s), PLANE.velocity
    mean = x + t[:, None] * u(x, t)
    torch.testing.assert_close(glass(u, y, one, x, t), mean - y, atol=1e-12, rtol=0)
    torch.testing.assert_close(glass(u, y, zero, x, t), y, atol=1e-12, rtol=0)
    torch.testing.assert_close(glass(u, y, s, x, one), u(y, s), atol=1e-12, rtol=0)


def test_at_t_0_the_inner_flow_leads_to_x():
    """x0 = x is known: E[x0 - e | y_s] = x - (y - (1 - s) x) / s."""
    y, s, x, t = batch()
    expected = (x - y) / s[:, None]
    torch.testing.assert_close(glass(PLANE.velocity, y, s, x, 0 * t), expected, atol=1e-11, rtol=0)


def test_the_ends_of_the_transition():
    y, s, x, t = batch()
    one, zero, u = torch.ones_like(s), torch.zeros_like(s), PLANE.velocity
    transition = lambda s, t: glass_transition(u, y, s, x, t)
    torch.testing.assert_close(transition(one, t), u(x, t) - y, atol=1e-12, rtol=0)
    torch.testing.assert_close(transition(zero, t), y, atol=1e-12, rtol=0)
    from_prior = u(y + (1 - s)[:, None] * x, s) - x
    torch.testing.assert_close(transition(s, one), from_prior, atol=1e-12, rtol=0)
    torch.testing.assert_close(transition(s, zero), transition(s, zero + 1e-9), atol=1e-6, rtol=0)


@pytest.mark.parametrize("velocity", FORCE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_every_pair_of_times(velocity, dtype):
    edges = torch.tensor([0, 1e-30, 1e-12, 1e-7, 1e-4, 0.5], dtype=dtype)
    times = torch.cat([edges, 1 - edges]).clamp(0, 1)
    s, t = (grid.flatten() for grid in torch.meshgrid(times, times, indexing="ij"))
    x0 = torch.full((len(s), 2), 0.7, dtype=dtype)
    g = torch.Generator().manual_seed(0)
    z, e = torch.randn(2, len(s), 2, generator=g, dtype=dtype)
    y, x = interpolate(x0, e, s), interpolate(x0, z, t)
    if velocity is glass_transition:
        y = interpolate(x0 - z, e, s)
    value = velocity(PLANE.velocity, y, s, x, t)
    assert value.isfinite().all()
    assert value.norm(dim=1).max() < (20 if dtype == torch.float64 else 200)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_where_x_tells_nothing_the_inner_flow_is_the_marginal_one(end):
    y, s, x, _ = batch()
    end = torch.full_like(s, end)
    assert torch.equal(glass(PLANE.velocity, y, end, x, end), PLANE.velocity(y, end))


@pytest.mark.parametrize("e", [3e-3, 1e-3, 5e-4, 2e-4])
def test_the_data_corner_is_not_blown_up_by_a_clamp(e):
    """|b| is about 1.3; clamping q^2 at 1e-6 makes it 1072 at 5e-4 and 4952 at 2e-4."""
    g = torch.Generator().manual_seed(0)
    x0, s = PLANE.sample(512, g), torch.full((512,), e, dtype=torch.float64)
    z, noise = torch.randn(2, 512, 2, generator=g, dtype=torch.float64)
    y, x = interpolate(x0, noise, s), interpolate(x0, z, s)
    value = glass(PLANE.velocity, y, s, x, s)
    assert 1.1 < value.square().mean().sqrt() < 1.5
    torch.testing.assert_close(value, by_force(y, s, x, s), atol=1e-9, rtol=0)
    single = glass(PLANE.velocity, *(state.float() for state in (y, s, x, s)))
    assert (single - value).square().mean().sqrt() < 1e-6 / e


def cdf(mixture, x):
    """P(X <= x) of one row's mixture on a line."""
    normal = torch.special.ndtr((x[:, None] - mixture.means[0, :, 0]) / mixture.stds[0])
    return (mixture.log_weights[0].exp() * normal).sum(1)


def distance(draws, mixture):
    """The Kolmogorov-Smirnov distance of draws to one row's mixture."""
    below = cdf(mixture, draws.flatten().sort().values)
    steps = torch.arange(N + 1, dtype=torch.float64) / N
    return torch.maximum((below - steps[:-1]).max(), (steps[1:] - below).max()).item()


def marginal(t):
    """p_t of the mixture on the line, one row."""
    std = ((1 - t) ** 2 * LINE.std**2 + t**2).sqrt()
    posterior = LINE.posterior(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1))
    return posterior._replace(means=(1 - t) * LINE.means[None], stds=std[None])


def given(t):
    """One state between the modes at t, for N draws, and its posterior."""
    x = torch.full((N, 1), 0.35 * (1 - t), dtype=torch.float64)
    t = torch.full((N,), t, dtype=torch.float64)
    return x, t, LINE.posterior(x[:1], t[:1])


@pytest.mark.parametrize("t", [0.3, 0.6, 0.9, 1.0])
def test_a_rollout_reaches_the_posterior(t):
    x, t, posterior = given(t)
    e = torch.randn(N, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inner = lambda y, s, condition: glass(LINE.velocity, y, s, x, t)
    draws = solve(inner, e, steps=24, method="rk4")
    assert distance(draws, posterior) < CRITICAL
    mean = (posterior.log_weights.exp()[..., None] * posterior.means).sum(1)
    assert distance(mean.expand(N, 1), posterior) > 0.3  # a deterministic map gives one point


@pytest.mark.parametrize("t", [0.3, 0.6, 1.0])
def test_a_rollout_of_the_transition_reaches_the_posterior(t):
    x, t, posterior = given(t)
    e = torch.randn(N, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inner = lambda y, s, condition: glass_transition(LINE.velocity, y, s, x, t)
    step = solve(inner, e, steps=24, method="rk4")
    assert distance(x + t[:, None] * step, posterior) < CRITICAL


@pytest.mark.parametrize("end", [0.5, 0.2, 0.0])
def test_transitions_keep_the_marginal(end):
    g = torch.Generator().manual_seed(3)
    t, s = torch.full((N,), 0.8, dtype=torch.float64), torch.full((N,), end, dtype=torch.float64)
    noise = lambda: torch.randn(N, 1, generator=g, dtype=torch.float64)
    x = interpolate(LINE.sample(N, g), noise(), t)
    x0 = LINE.posterior(x, t).sample(1, g)[0]
    assert distance(renoise(x0, noise(), s), marginal(end)) < CRITICAL
    assert distance(bridge(x0, x, t, s), marginal(end)) < CRITICAL


def test_bridge_by_hand_and_at_its_ends():
    x0, x = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    half, quarter, zero = torch.tensor([0.5]), torch.tensor([0.125]), torch.zeros(1)
    assert bridge(x0, x, half, quarter).item() == 1.5
    assert bridge(x0, x, half, half).item() == 3.0
    assert bridge(x0, x, half, zero).item() == 1.0
    assert bridge(x0, x, zero, zero).item() == 3.0  # there is no way to go


def test_gradients_reach_the_state_that_is_conditioned_on():
    """Steering differentiates draws in x: the gradient is that of the inner velocity."""
    y, s, x, t = batch(16)
    pull = lambda velocity: torch.func.grad(lambda x: velocity(x).sin().sum())(x)
    expected = pull(lambda x: by_force(y, s, x, t))
    value = pull(lambda x: glass(PLANE.velocity, y, s, x, t))
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("t", [0.02, 0.3, 0.9, 1.0])
def test_few_steps_draw_the_posterior_at_any_time(t):
    """With 32 uniform steps the distance at t = 0.02 is 0.05, at its own grid 0.001."""
    quantile = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    e = torch.distributions.Normal(0.0, 1.0).icdf(quantile)[:, None]
    x, time = torch.full((N, 1), 0.4, dtype=torch.float64), torch.full((N,), t).double()
    law = LINE.posterior(x[:1], time[:1])
    y = sample_posterior(LINE.velocity, e, x, time, steps=32).flatten().sort().values
    normal = torch.distributions.Normal(law.means[0, :, 0], law.stds[0])
    cdf = (law.log_weights[0].exp() * normal.cdf(y[:, None])).sum(1)
    assert float((cdf - quantile).abs().max()) < 0.004


def test_inner_times_fall_from_1_to_0_and_bend_towards_the_state_s_own():
    t = torch.tensor([1.0, 0.1, 0.01])
    s = inner_grid(t, 10)
    assert s[0].tolist() == [1, 1, 1]
    assert s[-1].tolist() == [0, 0, 0]
    assert bool((s.diff(dim=0) < 0).all())
    torch.testing.assert_close(s[:, 0], torch.linspace(1, 0, 11))
    torch.testing.assert_close(s[5] / (1 - s[5]), t)  # half way
