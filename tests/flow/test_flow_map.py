import math

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import (
    CentralDifference,
    ExactJVP,
    ForwardDifference,
    average_two_legs,
    flow_map,
)

F = lambda z, delta: torch.sin(3 * delta)[:, None] * z + torch.exp(z * delta[:, None])
exact = lambda z, delta: 3 * torch.cos(3 * delta)[:, None] * z + z * torch.exp(z * delta[:, None])


def batch(n=16):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, 4, generator=g, dtype=torch.float64)
    return z, 0.25 + 0.5 * torch.rand(n, generator=g, dtype=torch.float64)


def slope(derivative, z, delta, widths=(0.08, 0.04, 0.02, 0.01)):
    errors = [(derivative(h)(F, z, delta) - exact(z, delta)).norm().log() for h in widths]
    return ((errors[0] - errors[-1]) / math.log(widths[0] / widths[-1])).item()


def test_flow_map_is_the_identity_at_delta_0():
    z, velocity = torch.randn(2, 3, 2, 2)
    assert torch.equal(flow_map(z, velocity, torch.zeros(3)), z)


def test_flow_map_by_hand():
    assert (
        flow_map(torch.tensor([[4.0]]), torch.tensor([[-8.0]]), torch.tensor([0.75])).item() == -2.0
    )


def test_two_legs_by_hand():
    """x = 2 at t = 0.8 for 0.5 in all: 0.3 of it at 3, then F = 10 t + delta + x at what is left."""
    F = lambda x, t, delta: x + (10 * t + delta)[:, None]
    x, t, delta, share = torch.tensor([[2.0]]), *torch.tensor([[0.8], [0.5], [0.3]])
    value = average_two_legs(F, torch.tensor([[3.0]]), x, t, delta, share)
    assert value.item() == pytest.approx(0.3 * 3 + 0.7 * (2.45 + 6.5 + 0.35))


def test_two_legs_at_a_constant_velocity_are_one():
    F = lambda x, t, delta: 0 * x + 3
    x, t, delta = torch.randn(4, 2), torch.ones(4), torch.rand(4)
    for share in (torch.zeros(4), torch.rand(4), torch.ones(4)):
        torch.testing.assert_close(
            average_two_legs(F, F(x, t, delta), x, t, delta, share), F(x, t, delta)
        )


def test_exact_derivative_is_exact():
    z, delta = batch()
    torch.testing.assert_close(ExactJVP()(F, z, delta), exact(z, delta), atol=1e-13, rtol=1e-13)


def test_central_difference_has_order_2():
    assert slope(CentralDifference, *batch()) == pytest.approx(2, abs=0.1)


def test_forward_difference_has_order_1():
    assert slope(ForwardDifference, *batch()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("derivative", [CentralDifference, ForwardDifference])
def test_differences_at_the_ends_are_one_sided_and_of_order_1(derivative, end):
    z, delta = batch()
    assert slope(derivative, z, torch.full_like(delta, end)) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("h", [0.5, 5e-3])
@pytest.mark.parametrize("derivative", [CentralDifference, ForwardDifference])
def test_differences_never_leave_the_unit_interval(derivative, h):
    seen = []

    def linear(z, delta):
        seen.append(delta)
        return 7 * delta[:, None] * z

    delta = torch.cat([torch.linspace(0, 1, 1001), torch.tensor([1e-9, 1 - 1e-7, 0.995, 0.005])])
    quotient = derivative(h)(linear, torch.ones(len(delta), 1), delta)
    torch.testing.assert_close(quotient, torch.full_like(quotient, 7), atol=1e-3, rtol=1e-3)
    assert torch.stack(seen).min() >= 0
    assert torch.stack(seen).max() <= 1


@pytest.mark.parametrize("h", [0.0, -0.1, 0.6, math.nan])
@pytest.mark.parametrize("derivative", [CentralDifference, ForwardDifference])
def test_impossible_widths_are_refused(derivative, h):
    with pytest.raises(
        ValueError, match=r"expected h to be a finite number above 0 and at most 0.5"
    ):
        derivative(h)


@pytest.mark.parametrize("ignore", [lambda z, delta: 2 * z, lambda z, delta: z * delta[0].item()])
def test_exact_derivative_of_a_network_that_ignores_delta_is_an_error(ignore):
    with pytest.raises(RuntimeError, match="no tangent"):
        ExactJVP()(ignore, *batch())


@pytest.mark.parametrize("derivative", [ExactJVP(), CentralDifference(), ForwardDifference()])
def test_derivatives_carry_no_gradient_and_leave_none_behind(derivative):
    net = nn.Linear(4, 4).double()
    z, delta = batch()
    out = derivative(lambda z, delta: net(z) * delta[:, None], z, delta)
    torch.testing.assert_close(out, net(z).detach())
    assert not out.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert net(z).requires_grad  # gradients are on again


@pytest.mark.parametrize("derivative", [CentralDifference(), ForwardDifference()])
def test_differences_run_outside_autocast(derivative):
    layer = nn.Linear(4, 4)
    z, delta = torch.randn(2, 4), torch.rand(2)
    function = lambda z, delta: layer(z * delta[:, None])
    expected = derivative(function, z, delta)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(derivative(function, z, delta), expected)


def test_exact_derivative_passes_through_attention():
    def attend(z, delta):
        q = (z * delta[:, None]).view(-1, 1, 2, 2)
        return nn.functional.scaled_dot_product_attention(q, q, q).reshape(-1, 4)

    z, delta = batch()
    torch.testing.assert_close(
        ExactJVP()(attend, z, delta),
        CentralDifference(1e-4)(attend, z, delta),
        atol=1e-6,
        rtol=1e-6,
    )


def test_a_forward_difference_uses_the_value_that_is_known():
    """Exactly the same quotient, from one evaluation; under autocast the known value is rounded and is not used."""
    z, delta = torch.randn(6, 2), torch.tensor([0.0, 0.3, 0.9949, 0.995, 0.996, 1.0])
    calls = []

    def F(z, delta):  # noqa: N802
        calls.append(len(z))
        return z * torch.sin(3 * delta)[:, None]

    output = F(z, delta)
    calls.clear()
    known = ForwardDifference()(F, z, delta, output)
    assert len(calls) == 1
    assert torch.equal(known, ForwardDifference()(F, z, delta))
    assert len(calls) == 3
    with torch.autocast("cpu"):
        ForwardDifference()(F, z, delta, output)
    assert len(calls) == 5


def test_an_operation_without_a_forward_mode_rule_is_named_with_the_alternative():
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

    with pytest.raises(
        RuntimeError,
        match=r"without a forward-mode rule .*use CentralDifference or DiscretePrediction",
    ):
        ExactJVP()(
            lambda z, delta: z * Opaque.apply(delta)[:, None], torch.ones(1, 1), torch.ones(1)
        )
