import math

import pytest
import torch

from freeflow_lightning.flow import (
    EVALUATIONS,
    RULES,
    chord_rule,
    count_evaluations,
    euler,
    heun,
    one_step_rule,
    solve,
    uniform_grid,
)

ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
M, S = 1.5, 0.4
MEANS, STD = torch.tensor([-1.0, 1.5], dtype=torch.float64), 0.5


def gaussian(x, t, condition=None):
    """u of N(M, S^2): M + ((1 - t) S^2 - t) / v (x - (1 - t) M)."""
    t = t[:, None]
    return M + ((1 - t) * S**2 - t) / ((1 - t) ** 2 * S**2 + t**2) * (x - (1 - t) * M)


def mixture(x, t, condition=None):
    """u of an equal mixture of N(MEANS, STD^2) in one dimension."""
    t = t[:, None]
    v = (1 - t) ** 2 * STD**2 + t**2
    offset = x - (1 - t) * MEANS
    return (
        (-(offset**2) / (2 * v)).softmax(1) * (MEANS + ((1 - t) * STD**2 - t) / v * offset)
    ).sum(1, keepdim=True)


def noise(n=32):
    return torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slope(velocity, exact, method, end=0.0, steps=(32, 64, 128)):
    grids = [1 - (1 - end) * (1 - uniform_grid(n)) for n in steps]
    errors = [
        (solve(velocity, noise(), grid=grid, method=method) - exact).norm().log() for grid in grids
    ]
    return ((errors[0] - errors[-1]) / math.log(steps[-1] / steps[0])).item()


@pytest.mark.parametrize("method", RULES)
def test_order_on_a_gaussian(method):
    end = 0.3
    order = (
        3 if method == "midpoint" else ORDERS[method]
    )  # its h^2 term vanishes where the variance is quadratic in t
    exact = (1 - end) * M + math.sqrt((1 - end) ** 2 * S**2 + end**2) * noise()
    assert slope(gaussian, exact, method, end) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("method", RULES)
def test_order_on_a_mixture(method):
    exact = solve(mixture, noise(), steps=1024, method="rk4")
    assert slope(mixture, exact, method) == pytest.approx(ORDERS[method], abs=0.25)


def test_the_samples_are_the_gaussians():
    torch.testing.assert_close(
        solve(gaussian, noise(), steps=64, method="rk4"), M + S * noise(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("method", RULES)
def test_evaluations_are_the_calls_of_the_velocity(method):
    calls = []

    def velocity(x, t, condition):
        calls.append(t)
        return -x

    solve(velocity, noise(2), steps=5, method=method)
    assert len(calls) == 5 * EVALUATIONS[method]
    assert torch.stack(calls).min() >= 0
    assert torch.stack(calls).max() <= 1
    assert all(t.shape == (2,) for t in calls)


@pytest.mark.parametrize("method", RULES)
def test_every_rule_is_exact_for_a_constant_velocity(method):
    torch.testing.assert_close(
        solve(lambda x, t, c: 0 * x + 3, noise(), steps=3, method=method), noise() + 3
    )


@pytest.mark.parametrize("method", ["heun", "midpoint", "rk4"])
def test_higher_rules_are_exact_for_a_velocity_linear_in_time(method):
    torch.testing.assert_close(
        solve(lambda x, t, c: 0 * x + 2 * t[:, None], noise(), steps=3, method=method), noise() + 1
    )


def test_one_euler_step_by_hand():
    assert (
        solve(lambda x, t, c: x * t[:, None], torch.tensor([[3.0]]), steps=1, method="euler").item()
        == 6.0
    )


def test_rules_by_hand_on_one_step():
    x, t, t_next = torch.tensor([[2.0]]), torch.tensor([1.0]), torch.tensor([0.5])
    u = lambda x, t: x * t[:, None]
    assert euler(u, x, t, t_next).item() == 2.0
    assert heun(u, x, t, t_next).item() == 1.75  # (2 + 3 * 0.5) / 2
    assert one_step_rule("midpoint")(u, x, t, t_next).item() == 1.875  # 2.5 * 0.75
    k2 = 0.75 * 2.5
    k3 = 0.75 * (2 + 0.25 * k2)
    k4 = 0.5 * (2 + 0.5 * k3)
    assert one_step_rule("rk4")(u, x, t, t_next).item() == pytest.approx(
        (2 + 2 * k2 + 2 * k3 + k4) / 6
    )


def test_uniform_grid_runs_from_1_to_0():
    assert uniform_grid(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert uniform_grid(7)[0] == 1
    assert uniform_grid(7)[-1] == 0


def test_a_grid_splits_into_its_parts():
    grid = torch.tensor([1.0, 0.9, 0.5, 0.0], dtype=torch.float64)
    middle = solve(gaussian, noise(), grid=grid[:3])
    torch.testing.assert_close(
        solve(gaussian, noise(), grid=grid), solve(gaussian, middle, grid=grid[2:])
    )


def test_uniform_grid_is_the_default():
    assert torch.equal(
        solve(gaussian, noise(), steps=8), solve(gaussian, noise(), grid=uniform_grid(8))
    )


def test_trajectory_runs_from_the_noise_to_the_sample():
    states = solve(gaussian, noise(), steps=6, trajectory=True)
    assert states.shape == (7, 32, 1)
    assert torch.equal(states[0], noise())
    assert torch.equal(states[-1], solve(gaussian, noise(), steps=6))
    assert torch.equal(states[3], solve(gaussian, noise(), grid=uniform_grid(6)[:4]))


def test_a_rule_of_ones_own_is_a_method():
    backward_free = lambda u, x, t, t_next: u(x, t_next)
    assert torch.equal(
        solve(lambda x, t, c: 0 * x + t[:, None], torch.zeros(1, 1), steps=2, method=backward_free),
        torch.tensor([[0.25]]),
    )


def test_the_condition_is_passed_on():
    condition = {"label": torch.ones(2, 1)}
    assert solve(lambda x, t, c: c["label"], torch.zeros(2, 1), condition, steps=4).tolist() == [
        [1.0],
        [1.0],
    ]


def test_solving_keeps_the_precision_and_carries_no_gradient():
    z = noise().requires_grad_()
    assert solve(gaussian, z, steps=2).dtype == torch.float64
    assert not solve(gaussian, z, steps=2).requires_grad
    assert solve(gaussian, noise().float(), steps=2).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "adams"}, "unknown solver 'adams'.*euler.*heun.*midpoint.*rk4"),
        ({"steps": 0}, "steps to be an integer of at least 1, got 0"),
        ({"grid": torch.tensor([0.0, 1.0])}, "strictly decreasing"),
        ({"grid": torch.tensor([1.0, 0.5, 0.5])}, "strictly decreasing"),
        ({"grid": torch.tensor([1.0])}, "at least two"),
        ({"grid": torch.tensor([1.0, math.nan])}, "strictly decreasing"),
        ({"grid": torch.tensor([math.inf, 0.0])}, "strictly decreasing finite"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve(gaussian, noise(), **arguments)


def test_a_chord_rule_is_an_implicit_rule_or_an_explicit_one_that_ignores_the_end():
    x, end, t, t_next = (
        torch.tensor([[2.0]]),
        torch.tensor([[6.0]]),
        torch.tensor([1.0]),
        torch.tensor([0.5]),
    )
    u = lambda x, t: x * t[:, None]
    assert chord_rule("implicit_midpoint")(u, x, end, t, t_next).item() == 3.0  # 4 * 0.75
    for method in (*RULES, heun):
        assert torch.equal(
            chord_rule(method)(u, x, end, t, t_next), one_step_rule(method)(u, x, t, t_next)
        )


def test_a_rule_that_needs_the_end_of_its_step_solves_no_ode():
    with pytest.raises(ValueError, match="unknown solver 'implicit_midpoint'"):
        solve(lambda x, t, c: x, noise(), method="implicit_midpoint")
    with pytest.raises(ValueError, match=r"unknown solver 'adams'.*'implicit_midpoint'"):
        chord_rule("adams")


def test_evaluations_of_a_rule_of_ones_own_are_one():
    assert {count_evaluations(method) == EVALUATIONS[method] for method in EVALUATIONS} == {True}
    assert count_evaluations(heun) == 1
