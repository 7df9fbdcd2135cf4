import math

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import (
    EVALUATIONS,
    CentralDifference,
    ForwardDifference,
    floor_to_grid,
    heun,
    to_noisier,
)
from freeflow_lightning.objectives import (
    ContinuousPrediction,
    DiscretePrediction,
    in_confident_region,
    prediction,
)
from objectives.gaussian import M, S, batch, flow, teacher_velocity
from objectives.networks import Small, autograd_gradient, jacobian_gradient

FORMS = [
    ContinuousPrediction(),
    ContinuousPrediction(CentralDifference(1e-3)),
    DiscretePrediction(),
    DiscretePrediction(4, "euler"),
    DiscretePrediction(3, "midpoint"),
    DiscretePrediction(2, "rk4"),
    DiscretePrediction(8, "implicit_midpoint"),
]


def order(error_of, sizes):
    errors = [error_of(n).norm().log() for n in sizes]
    return ((errors[0] - errors[-1]) / math.log(sizes[-1] / sizes[0])).item()


def bend(z, delta):
    """The exact F of u(x, t) = -2 (1 - t) x^2: f = z / (1 + z delta^2)."""
    return -(z**2) * delta[:, None] / (1 + z * delta[:, None] ** 2)


def bend_velocity(x, t):
    return -2 * (1 - t)[:, None] * x**2


def test_the_closed_form_is_the_flow_map_of_the_teacher():
    z, _, delta = batch()
    sigma = ((delta * S) ** 2 + (1 - delta) ** 2).sqrt()[:, None]
    torch.testing.assert_close(z + delta[:, None] * flow(z, delta), delta[:, None] * M + sigma * z)


def test_exact_flow_map_has_no_continuous_residual():
    z, _, delta = batch()
    delta = torch.cat([delta[:-2], torch.tensor([0.0, 1.0])])
    r = prediction(flow, teacher_velocity(), z, delta, form=ContinuousPrediction())
    assert r.error.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("derivative", "expected"), [(CentralDifference, 2), (ForwardDifference, 1)]
)
def test_exact_flow_map_has_a_continuous_residual_of_the_differences_order(derivative, expected):
    z, _, delta = batch()
    delta = 0.2 + 0.6 * delta
    error = lambda n: (
        prediction(
            flow, teacher_velocity(), z, delta, form=ContinuousPrediction(derivative(1 / n))
        ).error
    )
    assert order(error, (20, 40, 80)) == pytest.approx(expected, abs=0.15)


def test_the_implicit_midpoint_by_hand():
    """N = 4, from delta_i = 0.25 to 0.5, F = 8 delta, u(x, t) = x t at the middle of f_i = 2.5 and f_{i+1} = 4."""
    F = lambda z, delta: 8 * delta[:, None] + 0 * z
    form = DiscretePrediction(4, "implicit_midpoint")
    r = prediction(
        F, lambda x, t: x * t[:, None], torch.tensor([[2.0]]), torch.tensor([0.3]), form=form
    )
    assert r.error.item() == pytest.approx((4 - 2.5) / 0.25 - 3.25 * 0.625)


def test_a_student_at_the_fixed_point_of_the_implicit_midpoint_is_its_chain_of_steps():
    """u = -x: f_{i+1} = f_i (1 - h / 2) / (1 + h / 2), off exp(-1) by O(h^2)."""
    end = lambda n: ((1 - 0.5 / n) / (1 + 0.5 / n)) ** n

    def error(n):
        F = lambda z, delta: z * ((end(n) ** delta - 1) / delta)[:, None]
        z, delta = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
        form = DiscretePrediction(n, "implicit_midpoint")
        assert prediction(F, lambda x, t: -x, z, delta, form=form).error.abs().max() < 1e-12
        return abs(end(n) - math.exp(-1))

    assert math.log(error(16) / error(64)) / math.log(4) == pytest.approx(2, abs=0.05)


# The h^2 term of the midpoint rule vanishes on a Gaussian, whose variance is quadratic in t.
@pytest.mark.parametrize(
    ("method", "expected"), [("euler", 1), ("heun", 2), ("midpoint", 3), ("rk4", 4)]
)
def test_exact_flow_map_of_a_gaussian_has_a_discrete_residual_of_the_rules_order(method, expected):
    z, _, delta = batch()
    half = torch.full_like(delta, 0.5)
    error = lambda n: (
        prediction(flow, teacher_velocity(), z, half, form=DiscretePrediction(n, method)).error
    )
    assert order(error, (64, 128, 256)) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("euler", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4), ("implicit_midpoint", 2)],
)
def test_exact_flow_map_of_a_nonlinear_field_has_a_discrete_residual_of_the_rules_order(
    method, expected
):
    z, _, delta = batch()
    half = torch.full_like(delta, 0.5)
    error = lambda n: (
        prediction(bend, bend_velocity, z.abs(), half, form=DiscretePrediction(n, method)).error
    )
    assert order(error, (32, 64, 128)) == pytest.approx(expected, abs=0.15)


def test_the_discrete_residual_tends_to_the_continuous_one_with_order_1():
    net, (z, _, delta) = Small(), batch()
    half = torch.full_like(delta, 0.5)
    limit = prediction(net, teacher_velocity(), z, half, form=ContinuousPrediction()).error
    error = lambda n: (
        prediction(net, teacher_velocity(), z, half, form=DiscretePrediction(n, "euler")).error
        - limit
    )
    assert order(error, (16, 32, 64)) == pytest.approx(1, abs=0.15)


def test_continuous_residual_is_generating_velocity_minus_teacher():
    """Eq. 9 by hand for F(z, delta) = a delta: v_G = 2 a delta."""
    z, _, delta = batch()
    u = lambda x, t: x * t[:, None]
    r = prediction(
        lambda z, delta: 5 * delta[:, None] + 0 * z, u, z, delta, form=ContinuousPrediction()
    )
    f = z + 5 * delta[:, None] ** 2
    torch.testing.assert_close(r.error, 10 * delta[:, None] - f * (1 - delta)[:, None])


def test_discrete_residual_by_hand():
    """Eq. 14, N = 4, delta = 0.3: from delta_i = 0.25 to 0.5, F = 8 delta, u(x, t) = x t with Heun."""
    F = lambda z, delta: 8 * delta[:, None] + 0 * z
    r = prediction(
        F,
        lambda x, t: x * t[:, None],
        torch.tensor([[2.0]]),
        torch.tensor([0.3]),
        form=DiscretePrediction(4),
    )
    f, f_next = 2 + 0.25 * 2, 2 + 0.5 * 4
    u_1 = f * 0.75
    u_2 = (f + 0.25 * u_1) * 0.5
    assert r.output.item() == 4.0
    assert r.error.item() == pytest.approx((f_next - f) / 0.25 - (u_1 + u_2) / 2)


def test_the_paper_s_form_is_the_default():
    z, _, delta = batch()
    expected = prediction(Small(), teacher_velocity(), z, delta, form=DiscretePrediction(8, "heun"))
    assert torch.equal(prediction(Small(), teacher_velocity(), z, delta).error, expected.error)


def continuous_error(net, u, z, delta):
    output, slope = torch.func.jvp(lambda s: net(z, s), (delta,), (torch.ones_like(delta),))
    return output + delta[:, None] * slope - u(z + delta[:, None] * output, 1 - delta)


def discrete_error(net, u, z, delta, steps, i):
    here, there = i.double() / steps, (i + 1).double() / steps
    f, f_next = z + here[:, None] * net(z, here), z + there[:, None] * net(z, there)
    return (f_next - f) * steps - heun(u, f, 1 - here, 1 - there)


def test_continuous_gradient_is_eq_9():
    net, u, (z, _, delta) = Small(), teacher_velocity(), batch(6)
    expected = jacobian_gradient(net, z, delta, continuous_error(net, u, z, delta).detach())
    r = prediction(net, u, z, delta, form=ContinuousPrediction())
    torch.testing.assert_close(
        autograd_gradient(net, r.surrogate().sum()), expected, atol=1e-12, rtol=1e-12
    )


def test_discrete_gradient_is_eq_9_at_the_next_grid_point():
    net, u, (z, _, delta) = Small(), teacher_velocity(), batch(6)
    i = floor_to_grid(delta, 8)
    error = discrete_error(net, u, z, delta, 8, i).detach()
    expected = jacobian_gradient(net, z, (i + 1) / 8, error)
    r = prediction(net, u, z, delta, form=DiscretePrediction(8, "heun"))
    torch.testing.assert_close(
        autograd_gradient(net, r.surrogate().sum()), expected, atol=1e-12, rtol=1e-12
    )


def test_gradient_is_half_that_of_the_squared_loss_of_eq_8():
    net, u, (z, _, delta) = Small(), teacher_velocity(), batch(6)
    target = net(z, delta).detach() - continuous_error(net, u, z, delta).detach()
    squared = autograd_gradient(net, (net(z, delta) - target).square().sum())
    surrogate = autograd_gradient(
        net, prediction(net, u, z, delta, form=ContinuousPrediction()).surrogate().sum()
    )
    torch.testing.assert_close({k: 2 * v for k, v in surrogate.items()}, squared)


@pytest.mark.parametrize("form", FORMS)
def test_no_gradient_reaches_the_teacher_or_the_target(form):
    net, teacher, (z, _, delta) = Small(), Small(seed=1), batch(6)
    r = prediction(net, teacher, z, delta, form=form)
    assert not r.error.requires_grad
    r.surrogate().sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_a_given_output_changes_nothing(form):
    net, (z, _, delta) = Small(), batch(6)
    r = prediction(net, teacher_velocity(), z, delta, form=form)
    given = prediction(
        net, teacher_velocity(), z, delta, form=form, output=net(z, form.output_delta(delta))
    )
    assert torch.equal(given.error, r.error)
    assert torch.equal(given.output, r.output)


@pytest.mark.parametrize("form", [form for form in FORMS if form != ContinuousPrediction()])
def test_claimed_evaluations_are_the_calls(form):
    net, (z, _, delta) = Small(), batch(6)
    student, teacher = [], []
    F = lambda z, delta: (student.append(torch.is_grad_enabled()), net(z, delta))[1]
    u = lambda x, t: (teacher.append(torch.is_grad_enabled()), x)[1]
    prediction(F, u, z, delta, form=form)
    assert student.count(True) == 1
    assert student.count(False) == form.student_evaluations
    assert len(teacher) == form.teacher_evaluations
    assert not any(teacher)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_asks_the_teacher_inside_the_unit_interval(form):
    times = []
    u = lambda x, t: (times.append(t), x)[1]
    z = torch.randn(5, 2)
    delta = torch.tensor([0.0, 1e-7, 0.5, 1 - 6e-8, 1.0])
    prediction(lambda z, delta: z * delta[:, None], u, z, delta, form=form)
    assert torch.cat(times).min() >= 0
    assert torch.cat(times).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discrete_output_lies_on_the_next_grid_point_in_deltas_precision(dtype):
    delta = torch.tensor([0.0, 0.1, 1 / 3, 0.9, 1.0], dtype=dtype)
    output = DiscretePrediction(3).output_delta(delta)
    assert torch.equal(output, torch.tensor([1 / 3, 1 / 3, 2 / 3, 1.0, 1.0], dtype=dtype))
    assert output.dtype == dtype


def test_a_rule_of_ones_own_is_a_method():
    F, z, delta = (
        lambda z, delta: 8 * delta[:, None] + 0 * z,
        torch.tensor([[2.0]]),
        torch.tensor([0.3]),
    )
    own = DiscretePrediction(4, lambda u, x, t, t_next: 100 * x + 10 * t[:, None] + t_next[:, None])
    assert prediction(F, bend_velocity, z, delta, form=own).error.item() == (4 - 2.5) / 0.25 - (
        250 + 7.5 + 0.5
    )


@pytest.mark.parametrize("method", EVALUATIONS)
def test_teacher_evaluations_are_the_rules(method):
    assert DiscretePrediction(8, method).teacher_evaluations == EVALUATIONS[method]


def test_impossible_grids_are_refused():
    with pytest.raises(ValueError, match="unknown solver 'adams'"):
        DiscretePrediction(8, "adams")
    with pytest.raises(ValueError, match="steps to be an integer of at least 1"):
        DiscretePrediction(0)


def test_confident_region_asks_at_the_noisier_state_and_time():
    x, n, t = batch()
    u, t_c = teacher_velocity(), 0.6
    value = in_confident_region(u, n, t_c)(x, t)
    low = t < t_c
    assert low.any()
    assert (~low).any()
    assert torch.equal(value[~low], u(x, t)[~low])
    shrink = (1 - t_c) / (1 - t[low])
    moved = shrink[:, None] * x[low] + (t_c**2 - (shrink * t[low]) ** 2).sqrt()[:, None] * n[low]
    torch.testing.assert_close(value[low], u(moved, torch.full_like(t[low], t_c)))


def test_confident_region_at_t_c_0_is_the_teacher_itself():
    u = teacher_velocity()
    assert in_confident_region(u, torch.zeros(1), 0.0) is u


def test_confident_region_at_t_c_1_asks_for_the_prior():
    x, n, t = batch()
    u = teacher_velocity()
    torch.testing.assert_close(in_confident_region(u, n, 1.0)(x, t), u(n, torch.ones_like(t)))


def test_confident_region_moves_each_state_of_heun_by_the_same_noise():
    z, n, delta = batch(6)
    asked = []
    u = lambda x, t: (asked.append((x, t)), x)[1]
    prediction(flow, in_confident_region(u, n, 0.95), z, delta, form=DiscretePrediction(8))
    i = floor_to_grid(delta, 8).double()
    f = z + (i / 8)[:, None] * flow(z, i / 8)
    first, time = to_noisier(f, n, 1 - i / 8, torch.full_like(delta, 0.95))
    torch.testing.assert_close(asked[0], (first, time))
    torch.testing.assert_close(
        asked[1][0], to_noisier(f + first / 8, n, 1 - (i + 1) / 8, torch.full_like(delta, 0.95))[0]
    )


def test_the_student_that_starts_as_the_teacher_is_right_at_delta_0():
    u, (z, _, delta) = teacher_velocity(), batch()
    F = lambda z, delta: u(z, torch.ones_like(delta))
    assert (
        prediction(F, u, z, 0 * delta, form=ContinuousPrediction(CentralDifference()))
        .error.abs()
        .max()
        == 0
    )


def test_gradient_reaches_only_the_network_that_was_asked():
    z, _, delta = batch(6)
    z.requires_grad_()
    layer = nn.Linear(3, 3).double()
    prediction(
        lambda z, delta: layer(z) * delta[:, None], teacher_velocity(), z, delta
    ).surrogate().sum().backward()
    i = floor_to_grid(delta, 8)
    assert layer.weight.grad is not None
    assert z.grad is not None  # through the output alone: the error is a constant
    error = prediction(
        lambda z, delta: layer(z) * delta[:, None], teacher_velocity(), z.detach(), delta
    ).error
    torch.testing.assert_close(z.grad, (error * ((i + 1) / 8)[:, None]) @ layer.weight)
