"""The derivative of F(x, t, delta) along a line; the partial in delta alone is in test_flow_map."""

import math
import subprocess
import sys

import pytest
import torch

from freeflow_lightning.flow import CentralDifference, ExactJVP, ForwardDifference

LINES = {
    "Eulerian": (torch.tensor([[1.0, -2.0]], dtype=torch.float64), 1.0, 1.0),
    "Lagrangian": (None, 0.0, 1.0),
    "end time": (None, 0.0, -1.0),
    "start time": (None, 1.0, 1.0),
    "x alone": (torch.tensor([[0.5, 1.0]], dtype=torch.float64), 0.0, 0.0),
    "uneven": (torch.tensor([[0.5, 1.0]], dtype=torch.float64), 0.5, -2.0),
}
POINTS = {  # where a line has no length inside 0 <= delta <= t <= 1
    "Eulerian": lambda t, s: s == 1,
    "Lagrangian": lambda t, s: t == 0,
    "end time": lambda t, s: t == 0,
    "start time": lambda t, s: s == 1,
    "x alone": lambda t, s: t > 1,
    "uneven": lambda t, s: (t == 0) | (t == 1) & (s == 0),
}


def F(x, t, delta):  # noqa: N802
    t, delta = t[:, None], delta[:, None]
    return torch.sin(x * t) + x.square() * delta + torch.cos(3 * delta * t)


def gradient(x, t, delta, dx, dt, ddelta):
    """(tangent . grad) F by hand."""
    t, delta = t[:, None], delta[:, None]
    in_x = t * torch.cos(x * t) + 2 * x * delta
    in_t = x * torch.cos(x * t) - 3 * delta * torch.sin(3 * delta * t)
    in_delta = x.square() - 3 * t * torch.sin(3 * delta * t)
    return in_x * (0 if dx is None else dx) + in_t * dt + in_delta * ddelta


def batch(n=32, low=0.0):
    """(x, t, delta) with 0 <= delta <= t <= 1, in float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=g, dtype=torch.float64)
    s, t = torch.rand(2, n, generator=g, dtype=torch.float64).sort(0).values
    t, s = low + (1 - 2 * low) * t, low + (1 - 2 * low) * s
    return x, t, t - s


def spread(tangent, n=32):
    return (None if tangent[0] is None else tangent[0].expand(n, 2), *tangent[1:])


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_the_exact_derivative_is_the_gradient_along_the_line(line):
    point, tangent = batch(), spread(line)
    expected = gradient(*point, *tangent)
    torch.testing.assert_close(ExactJVP().along(F, point, tangent), expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
@pytest.mark.parametrize(("derivative", "order"), [(CentralDifference, 2), (ForwardDifference, 1)])
def test_differences_tend_to_it_with_their_order(derivative, order, line):
    x, t, delta = batch()
    t, delta = 0.4 + 0.2 * t, 0.2 + 0.1 * delta  # every end of the line is further than h
    tangent = spread(line)
    expected = gradient(x, t, delta, *tangent)
    error = lambda h: (derivative(h).along(F, (x, t, delta), tangent) - expected).norm().log()
    slope = (error(0.02) - error(0.005)) / math.log(4)
    assert slope.item() == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("h", [5e-3, 0.5])
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("derivative", [CentralDifference, ForwardDifference])
def test_differences_never_leave_the_triangle(derivative, line, h):
    """0 <= delta <= t <= 1 wherever F is asked, and a right quotient up to the corners."""
    grid = torch.linspace(0, 1, 41)
    t, s = (axis.flatten() for axis in torch.meshgrid(grid, grid, indexing="ij"))
    t, s = t[s <= t], s[s <= t]
    x = torch.zeros(len(t), 2)
    dx, dt, ddelta = LINES[line]
    dx = None if dx is None else dx.float().expand(len(t), 2)
    seen = []

    def linear(x, t, delta):
        seen.append((t, delta))
        return x + 5 * t[:, None] + 7 * delta[:, None]

    quotient = derivative(h).along(linear, (x, t, t - s), (dx, dt, ddelta))
    for time, delta in seen:
        assert time.max() <= 1
        assert delta.min() >= 0
        assert (time - delta).min() >= 0
    point = POINTS[line](t, s)
    expected = (0 if dx is None else dx) + torch.full_like(x, 5 * dt + 7 * ddelta)
    torch.testing.assert_close(quotient[~point], expected[~point], atol=1e-2, rtol=0)
    assert (quotient[point] == 0).all()


def test_the_partial_in_delta_is_the_line_along_delta():
    x, t, delta = batch()
    for derivative in (ExactJVP(), CentralDifference(), ForwardDifference()):
        partial = derivative(lambda x, delta: F(x, torch.ones_like(delta), delta), x, delta)
        line = derivative.along(F, (x, torch.ones_like(t), delta), (None, 0.0, 1.0))
        assert torch.equal(partial, line)


def test_the_attached_derivative_carries_the_mixed_gradient():
    """d/dw of dF/d(delta) for F = w^2 delta^3: 2 w 3 delta^2, beside F's own 2 w delta^3."""
    w = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    x, t, delta = batch()
    function = lambda x, t, delta: w**2 * delta[:, None] ** 3 * x
    output, slope = ExactJVP().attached(function, (x, t, delta))
    scale = delta[:, None]
    (of_output,) = torch.autograd.grad(output.sum(), w, retain_graph=True)
    (of_slope,) = torch.autograd.grad(slope.sum(), w)
    torch.testing.assert_close(of_output, (2 * w * scale**3 * x).sum().detach())
    torch.testing.assert_close(of_slope, (2 * w * 3 * scale**2 * x).sum().detach())


def test_the_attached_derivative_passes_through_attention():
    """A softmax of dual numbers has no backward; the gradient is a difference quotient's."""
    x, t, delta = batch(4)
    w = torch.full((2, 2), 0.3, dtype=torch.float64)

    def slope(w, derivative):
        def attend(x, t, delta):
            q = (x * delta[:, None]).view(-1, 1, 2, 1) @ w[:1]
            out = torch.nn.functional.scaled_dot_product_attention(q, q, q)
            return out.flatten(1)[:, ::2] + 0 * x

        return derivative(attend, (x, t, delta))

    w.requires_grad_()
    slope(w, lambda F, point: ExactJVP().attached(F, point)[1]).sum().backward()
    plain = lambda w: slope(w, lambda F, point: ExactJVP().along(F, point, (None, 0.0, 1.0))).sum()
    change = torch.tensor([[1e-5, 0.0], [0.0, 0.0]], dtype=torch.float64)
    quotient = (plain(w.detach() + change) - plain(w.detach() - change)) / 2e-5
    torch.testing.assert_close(w.grad[0, 0], quotient, atol=1e-8, rtol=1e-6)


def test_the_attached_derivative_of_a_network_that_ignores_delta_is_an_error():
    with pytest.raises(RuntimeError, match="independent"):
        ExactJVP().attached(lambda x, t, delta: x * t[:, None], batch())


def test_a_network_that_embeds_1000_t_is_why_t_must_not_move_by_a_difference():
    """The figure behind the docstring's warning: the quotient is off by its own size."""
    x, t, delta = batch(256, low=0.05)
    embedded = lambda x, t, delta: torch.sin(1000 * t)[:, None] + 0 * x
    exact = ExactJVP().along(embedded, (x, t, delta), (None, 1.0, 1.0))
    difference = CentralDifference().along(embedded, (x, t, delta), (None, 1.0, 1.0))
    assert (difference - exact).norm() > exact.norm()


def test_the_first_derivative_of_a_process_warns_of_nothing():
    """torch scripts its forward-mode rules then, and calls its own script deprecated."""
    code = (
        "import torch; from freeflow_lightning.flow import ExactJVP; "
        "norm = torch.nn.LayerNorm(2); F = lambda x, t, delta: norm(x * delta[:, None]); "
        "one = torch.ones(1); ExactJVP().attached(F, (torch.randn(1, 2), one, one))[1].sum().backward()"
    )
    words = [sys.executable, "-W", "error::FutureWarning", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
