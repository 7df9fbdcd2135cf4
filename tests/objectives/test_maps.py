"""The objectives of two-time maps: 0 at exact maps, not off them, equal to the papers' formulas."""

import math

import pytest
import torch
from torch import nn

from freeflow_lightning.flow import (
    CentralDifference,
    Derivative,
    ExactJVP,
    ForwardDifference,
    StudentPath,
    Uniform,
)
from freeflow_lightning.objectives import (
    Consistency,
    ContinuousPrediction,
    DiscreteEulerian,
    DiscreteLagrangian,
    DiscretePrediction,
    Endpoint,
    Eulerian,
    Lagrangian,
    Semigroup,
    anchor,
)
from objectives import maps
from objectives.maps import (
    batch,
    gaussian_map,
    gaussian_velocity,
    mixture_map,
    mixture_velocity,
    off,
)
from objectives.networks import autograd_gradient

EXACT = {
    "Lagrangian": Lagrangian(),
    "Lagrangian, full gradient": Lagrangian(full_gradient=True),
    "Eulerian": Eulerian(),
    "semigroup, half": Semigroup(),
    "semigroup, a third": Semigroup(0.3),
}
NEARLY = {  # with the error that their steps leave at the Gaussian's and at the mixture's map
    "discrete Eulerian, Euler": (DiscreteEulerian(1e-3, "euler"), 2e-4, 2e-3),
    "discrete Eulerian, Heun": (DiscreteEulerian(0.01), 1e-5, 1e-4),
    "discrete Lagrangian, Heun": (DiscreteLagrangian(64), 1e-3, 1e-2),
    "discrete Lagrangian, implicit": (DiscreteLagrangian(64, "implicit_midpoint"), 1e-3, 1e-2),
    "consistency": (Consistency(50), 1e-3, 1e-3),
    "endpoint": (Endpoint(200), 1e-10, 1e-9),
}
PUBLISHED = [*EXACT.values(), *(form for form, _, _ in NEARLY.values())]
FORMS = [
    *PUBLISHED,
    Lagrangian(CentralDifference(1e-3)),
    Eulerian(CentralDifference(1e-3)),
    Eulerian(ForwardDifference(1e-3)),
    Eulerian(tangent=0.99),
    Endpoint(2, "euler"),
]


class Small(nn.Module):
    """A network F(x, t, delta) in float64."""

    def __init__(self, d=2, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b = nn.Linear(d + 2, 8).double(), nn.Linear(8, d).double()

    def forward(self, x, t, delta):
        return self.b(torch.tanh(self.a(torch.cat([x, t[:, None], delta[:, None]], 1))))


def rms(x):
    return x.square().mean().sqrt().item()


def error(form, F, u, x, t, delta):
    return form.error(F, F(x, t, delta), u, x, t, delta)


@pytest.mark.parametrize("form", EXACT.values(), ids=EXACT)
def test_the_gaussian_s_map_has_no_error_and_another_has(form):
    x, t, delta = batch(low=0.0)
    assert error(form, gaussian_map, gaussian_velocity, x, t, delta).abs().max() < 1e-12
    assert rms(error(form, off(gaussian_map), gaussian_velocity, x, t, delta)) > 1e-2


@pytest.mark.parametrize("form", [Lagrangian(), Eulerian(), Semigroup()], ids=str)
def test_the_mixture_s_map_has_no_error_and_another_has(form):
    assert error(form, mixture_map, mixture_velocity, *batch()).abs().max() < 1e-7
    assert rms(error(form, off(mixture_map), mixture_velocity, *batch())) > 1e-2


@pytest.mark.parametrize(("form", "gaussian", "mixture"), NEARLY.values(), ids=NEARLY)
def test_forms_with_steps_have_an_error_of_their_steps_alone(form, gaussian, mixture):
    x, t, delta = batch()
    assert rms(error(form, gaussian_map, gaussian_velocity, x, t, delta)) < gaussian
    assert rms(error(form, mixture_map, mixture_velocity, x, t, delta)) < mixture
    assert rms(error(form, off(gaussian_map), gaussian_velocity, x, t, delta)) > 1e-2


def slope(error_of, small, large):
    """The order in 1 / n of the error."""
    return math.log(rms(error_of(small)) / rms(error_of(large))) / math.log(large / small)


def bend_map(x, t, delta):
    """The exact F of `bend`: 1 / f = 1 / x + t^2 - s^2 along the path."""
    span = delta * (2 * t - delta)
    return x.square() * (delta - 2 * t)[:, None] / (1 + x * span[:, None])


def bend(x, t):
    """u = -2 t x^2: dx/dt = 2 t x^2, so that 1 / x + t^2 is constant."""
    return -2 * t[:, None] * x**2


def bend_batch():
    x, t, delta = batch(low=0.1)
    return x.abs(), t, delta


def test_the_bent_map_is_the_bent_velocity_s():
    assert error(Lagrangian(), bend_map, bend, *bend_batch()).abs().max() < 1e-12
    assert error(Eulerian(), bend_map, bend, *bend_batch()).abs().max() < 1e-12


METHODS = [("euler", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4)]


@pytest.mark.parametrize(("method", "order"), [*METHODS, ("implicit_midpoint", 2)])
def test_a_discrete_lagrangian_has_its_rule_s_order(method, order):
    x, t, _ = bend_batch()
    of = lambda n: error(DiscreteLagrangian(n, method), bend_map, bend, x, t, t / 2)
    assert slope(of, 32, 128) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("method", "order"), METHODS[:3])
def test_a_discrete_eulerian_has_its_rule_s_order_in_alpha(method, order):
    of = lambda n: error(DiscreteEulerian(1 / n, method), bend_map, bend, *bend_batch())
    assert slope(of, 40, 160) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("method", "order"), METHODS)
def test_an_endpoint_has_its_rule_s_order(method, order):
    of = lambda n: error(Endpoint(n, method), bend_map, bend, *bend_batch())
    assert slope(of, 64, 256) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("method", "order"), METHODS[:3])
def test_a_consistency_error_is_one_local_error_of_its_rule(method, order):
    x, t, _ = bend_batch()
    t = 0.5 + t / 2
    of = lambda n: error(Consistency(n, method), bend_map, bend, x, t, t)
    assert slope(of, 32, 128) == pytest.approx(order + 1, abs=0.15)


@pytest.mark.parametrize(
    ("form", "formula"),
    [
        (Eulerian(), maps.eulerian),
        (Lagrangian(), maps.lagrangian),
        (Lagrangian(full_gradient=True), maps.lagrangian),
        (Semigroup(), maps.semigroup),
        (Semigroup(0.2), lambda *a: maps.semigroup(*a, g=0.2)),
        (DiscreteEulerian(0.1), lambda *a: maps.discrete_eulerian(*a, alpha=0.1)),
        (Endpoint(4), lambda *a: maps.endpoint(*a, steps=4)),
    ],
)
def test_off_the_optimum_the_error_is_the_paper_s(form, formula):
    net, u = Small(), mixture_velocity
    expected = formula(net, u, *batch())
    value = form.residual(net, u, *batch()).error
    torch.testing.assert_close(value, expected.detach(), atol=1e-12, rtol=1e-12)


def test_consistency_is_the_difference_of_two_ends_over_t():
    x, t, _ = batch()
    t = torch.cat([t[:-2], torch.tensor([0.01, 1.0])])  # the first has less than a step left
    expected = maps.consistency(Small(), mixture_velocity, x, t, t, 20)
    value = error(Consistency(20), Small(), mixture_velocity, x, t, t)
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-12)


def test_consistency_tends_to_the_eulerian_form():
    """h / t times Delta_E, as h goes to 0 (sCD)."""
    x, t, _ = batch()
    net, t = Small(), 0.2 + 0.8 * t
    limit = error(Eulerian(), net, mixture_velocity, x, t, t)
    of = lambda n: n * t[:, None] * error(Consistency(n), net, mixture_velocity, x, t, t) - limit
    assert slope(of, 50, 200) == pytest.approx(1, abs=0.15)


def test_the_discrete_eulerian_form_tends_to_the_eulerian_one():
    limit = error(Eulerian(), Small(), mixture_velocity, *batch())
    of = lambda n: error(DiscreteEulerian(1 / n), Small(), mixture_velocity, *batch()) - limit
    assert slope(of, 100, 400) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("form", [Lagrangian, Eulerian])
def test_differences_give_the_exact_derivative_s_error(form):
    exact = error(form(), Small(), mixture_velocity, *batch())
    central = error(form(CentralDifference(1e-4)), Small(), mixture_velocity, *batch())
    torch.testing.assert_close(central, exact, atol=1e-4, rtol=0)
    forward = error(form(ForwardDifference(1e-5)), Small(), mixture_velocity, *batch())
    torch.testing.assert_close(forward, exact, atol=1e-4, rtol=0)


class Along(Derivative):
    """The exact derivative along a wrong line."""

    def __init__(self, change):
        self.change = change

    def along(self, F, point, tangent, output=None):
        return ExactJVP().along(F, point, self.change(*tangent), output)


MUTANTS = {
    "Eulerian, x along +u": Eulerian(Along(lambda dx, dt, dd: (-dx, dt, dd))),
    "Eulerian, x held": Eulerian(Along(lambda dx, dt, dd: (None, dt, dd))),
    "Eulerian, delta held": Eulerian(Along(lambda dx, dt, dd: (dx, dt, 0.0))),
    "Eulerian, delta falling": Eulerian(Along(lambda dx, dt, dd: (dx, dt, -dd))),
    "Eulerian, backwards": Eulerian(Along(lambda dx, dt, dd: (-dx, -dt, -dd))),
    "Lagrangian, d/ds with d/d(delta)'s sign": Lagrangian(Along(lambda dx, dt, dd: (dx, dt, -dd))),
    "Lagrangian, s held": Lagrangian(Along(lambda dx, dt, dd: (dx, 1.0, dd))),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_wrong_tangents_have_an_error_at_the_exact_map(mutant):
    assert rms(error(mutant, gaussian_map, gaussian_velocity, *batch())) > 0.1


@pytest.mark.parametrize("form", PUBLISHED, ids=str)
def test_a_teacher_of_the_other_sign_has_an_error_at_the_exact_map(form):
    u = lambda x, t: -gaussian_velocity(x, t)
    value = rms(error(form, gaussian_map, u, *batch()))
    if form.needs_anchor:  # it holds for the map of any velocity: u comes by the anchor
        assert value < 1e-12
        assert rms(anchor(gaussian_map, u, *batch()[:2]).error) > 0.3
    else:
        assert value > 0.1


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_on_the_diagonal_the_error_is_f_minus_u(form):
    """delta = 0: every form but the semigroup's anchors F(x, t, t) at u."""
    x, t, _ = batch()
    net, zero = Small(), torch.zeros_like(t)
    value = error(form, net, mixture_velocity, x, t, zero)
    expected = 0 * x if form.needs_anchor else net(x, t, zero) - mixture_velocity(x, t)
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=0)


def test_the_lagrangian_form_at_the_prior_is_freeflow_s_continuous_prediction():
    net, (z, _, delta) = Small(), batch()
    one = torch.ones_like(delta)
    F = lambda z, delta: net(z, torch.ones_like(delta), delta)
    for derivative in (ExactJVP(), CentralDifference(), ForwardDifference()):
        form = ContinuousPrediction(derivative)
        expected = form.error(F, F(z, delta), mixture_velocity, z, delta)
        value = error(Lagrangian(derivative), net, mixture_velocity, z, one, delta)
        assert torch.equal(value, expected)


@pytest.mark.parametrize("method", ["heun", "implicit_midpoint"])
def test_the_discrete_lagrangian_form_at_the_prior_is_freeflow_s_discrete_prediction(method):
    net, (z, _, delta) = Small(), batch()
    one = torch.ones_like(delta)
    F = lambda z, delta: net(z, torch.ones_like(delta), delta)
    paper, form = DiscretePrediction(8, method), DiscreteLagrangian(8, method)
    rounded = form.output_delta(one, delta)
    torch.testing.assert_close(rounded, paper.output_delta(delta), atol=1e-15, rtol=0)
    expected = paper.error(F, F(z, rounded), mixture_velocity, z, delta)
    value = error(form, net, mixture_velocity, z, one, rounded)
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=0)


def test_the_grid_of_a_discrete_lagrangian_ends_with_the_path():
    form = DiscreteLagrangian(4)
    t = torch.tensor([0.8, 0.8, 0.8, 1.0, 1.0, 0.0])
    delta = torch.tensor([0.0, 0.19, 0.8, 0.5, 0.25, 0.0])  # as drawn: one of them is a node
    expected = torch.tensor([0.2, 0.2, 0.8, 0.75, 0.5, 0.0])
    torch.testing.assert_close(form.output_delta(t, delta), expected)
    assert form.active_rows(t, delta).tolist() == [False, False, True, True, True, False]


def test_boot_s_residual_is_the_lagrangian_one_at_the_prior():
    """y = z + F(z, 1, s), dy/ds - (y - D) / (s (1 - s)) with D = x_s + s u: -Delta_L / (1 - s)."""
    net, (z, _, delta) = Small(), batch()
    s = 0.05 + 0.9 * (1 - delta)
    one, u = torch.ones_like(s), mixture_velocity
    along = (torch.ones_like(s),)
    output, rate = torch.func.jvp(lambda s: net(z, one, 1 - s), (s,), along)
    x_s = z + (1 - s)[:, None] * output
    data = x_s + s[:, None] * u(x_s, s)
    boot = rate - (z + output - data) / (s * (1 - s))[:, None]
    value = error(Lagrangian(), net, u, z, one, 1 - s)
    torch.testing.assert_close(value, -(1 - s)[:, None] * boot, atol=1e-12, rtol=0)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_gradient_is_that_of_the_output_alone(form):
    """sum error . dF/d(theta), with the error held: nothing reaches the target or the teacher."""
    net, teacher, (x, t, delta) = Small(), Small(seed=1), batch(6)
    u = lambda x, t: teacher(x, t, 0 * t)
    r = form.residual(net, u, x, t, delta)
    assert not r.error.requires_grad
    parameters = dict(net.named_parameters())

    def carrier(parameters):
        F = lambda *a: torch.func.functional_call(net, parameters, a)
        if form != Lagrangian(full_gradient=True):
            return F(x, t, delta)
        rate = torch.ones_like(delta)
        output, slope = torch.func.jvp(lambda delta: F(x, t, delta), (delta,), (rate,))
        return output + delta[:, None] * slope

    jacobian = torch.func.jacrev(carrier)(parameters)
    expected = {name: torch.einsum("bi,bi...->...", r.error, j) for name, j in jacobian.items()}
    r.surrogate().sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    value = {name: p.grad for name, p in net.named_parameters()}
    torch.testing.assert_close(value, expected, atol=1e-12, rtol=1e-10)


def test_the_full_gradient_is_another_gradient():
    net, u, x = Small(), mixture_velocity, batch(6)
    full, stopped = Lagrangian(full_gradient=True), Lagrangian()
    loss = lambda form: form.residual(net, u, *x).surrogate().sum()
    pull = lambda form: autograd_gradient(net, loss(form))["a.weight"]
    assert not torch.allclose(pull(full), pull(stopped), rtol=1e-2)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_claimed_evaluations_are_the_calls(form):
    net, calls = Small(), {"student": [], "teacher": []}

    def F(*point):  # noqa: N802
        calls["student"].append(torch.is_grad_enabled())
        return net(*point)

    def u(x, t):
        calls["teacher"].append(torch.is_grad_enabled())
        return mixture_velocity(x, t)

    form.residual(F, u, *batch(6))
    dual = getattr(form, "derivative", None) == ExactJVP()  # one call that costs two
    attached = form == Lagrangian(full_gradient=True)  # one call gives output and derivative
    known = isinstance(getattr(form, "derivative", None), ForwardDifference)  # the output is reused
    further = form.student_evaluations - dual - attached - known
    assert calls["student"].count(True) == 1
    assert calls["student"].count(False) == further
    assert calls["teacher"] == [False] * form.teacher_evaluations


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_without_effect_have_none(form):
    """F may be 0 where `active_rows` says no, and the error is the same."""
    x, t, delta = batch()
    delta[:8] = 0
    delta[8:24] = 1 / 64 * t[8:24]
    net, moved = Small(), form.active_rows(t, delta)
    output = net(x, t, delta)
    skipped = lambda x, t, delta: torch.where(moved[:, None], net(x, t, delta), 0)
    if isinstance(getattr(form, "derivative", None), ForwardDifference):
        skipped = lambda x, t, delta: torch.where(moved[:, None], net(x, t, delta), output)
    value = form.error(skipped, output, mixture_velocity, x, t, delta)
    assert torch.equal(value, form.error(net, output, mixture_velocity, x, t, delta))
    assert moved[24:].any() or form.student_evaluations == 0


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_networks_are_asked_inside_the_triangle(form):
    t = torch.tensor([0.0, 1e-7, 0.3, 1 - 6e-8, 1.0])
    start, part = (grid.flatten() for grid in torch.meshgrid(t, t, indexing="ij"))
    delta, x = start * part, torch.ones(25, 1)
    places = []

    def F(x, t, delta):  # noqa: N802
        places.append((t, delta))
        return x * t[:, None] + delta[:, None]

    def u(x, t):
        places.append((t, 0 * t))
        return -x

    value = form.error(F, F(x, start, delta), u, x, start, delta)
    assert value.isfinite().all()
    for t, delta in places:
        assert t.min() >= 0
        assert t.max() <= 1
        assert delta.min() >= 0
        assert (t - delta).min() >= 0


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms_closed_at_the_prior_ask_the_student_there_alone(form):
    starts = []
    x, _, delta = batch()
    F = lambda x, t, delta: (starts.append(t), x * t[:, None] + delta[:, None])[1]
    if getattr(form, "derivative", None) == ExactJVP():
        form = type(form)(CentralDifference())  # whose places can be seen
    error(form, F, gaussian_velocity, x, torch.ones_like(delta), delta)
    assert all(bool((t == 1).all()) for t in starts) == form.closed_at_prior
    if not form.closed_at_prior:
        assert form.differentiates_time == isinstance(form, Eulerian)


def test_only_forms_that_subtract_outputs_say_so():
    exact = [form for form in FORMS if not form.subtracts_outputs]
    assert all(isinstance(form, Endpoint) or form.derivative == ExactJVP() for form in exact)
    assert len(exact) == 6


def test_a_split_is_drawn_for_each_row():
    law = Semigroup(Uniform(0.1, 0.9))
    with pytest.raises(ValueError, match=r"use the form that prepare\(n, generator\) returns"):
        error(law, Small(), mixture_velocity, *batch())
    form = law.prepare(64, torch.Generator().manual_seed(0))
    assert form.split.shape == (64,)
    expected = maps.semigroup(Small(), mixture_velocity, *batch(), g=1.0)
    x, t, delta = batch()
    for row in range(3):
        one = [v[row : row + 1] for v in (x, t, delta)]
        expected = maps.semigroup(Small(), mixture_velocity, *one, g=form.split[row].double())
        value = error(form, Small(), mixture_velocity, x, t, delta)[row : row + 1]
        torch.testing.assert_close(value, expected, atol=1e-12, rtol=0)
    assert Semigroup().prepare(64, torch.Generator()).split == 0.5
    assert Eulerian().prepare(64, torch.Generator()) == Eulerian()


def test_the_tangent_s_share_scales_the_derivative_alone():
    x, t, delta = batch()
    net, u = Small(), mixture_velocity
    none, half, whole = (error(Eulerian(tangent=r), net, u, x, t, delta) for r in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none, net(x, t, delta) - u(x, t))
    torch.testing.assert_close(half, (none + whole) / 2)


def test_the_anchor_is_the_diagonal():
    net, (x, t, _) = Small(), batch()
    r = anchor(net, mixture_velocity, x, t)
    assert torch.equal(r.output, net(x, t, 0 * t))
    assert torch.equal(r.error, (net(x, t, 0 * t) - mixture_velocity(x, t)).detach())
    assert r.output.requires_grad
    given = anchor(net, mixture_velocity, x, t, output=r.output)
    assert torch.equal(given.error, r.error)


def test_a_given_output_changes_nothing():
    for form in FORMS:
        expected = form.residual(Small(), mixture_velocity, *batch())
        given = form.residual(Small(), mixture_velocity, *batch(), output=Small()(*batch()))
        assert torch.equal(given.error, expected.error)
        assert torch.equal(given.output, expected.output)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Lagrangian(CentralDifference(), full_gradient=True), "only ExactJVP gives"),
        (lambda: DiscreteLagrangian(0), "steps to be an integer of at least 1, got 0"),
        (lambda: DiscreteLagrangian(8, "adams"), "unknown solver 'adams'.*implicit_midpoint"),
        (lambda: Eulerian(tangent=1.5), "tangent to be a finite number from 0 to 1, got 1.5"),
        (lambda: DiscreteEulerian(0.0), "alpha to be a finite number above 0 and at most 1"),
        (lambda: DiscreteEulerian(0.1, "implicit_midpoint"), "unknown solver"),
        (lambda: Semigroup(-0.1), "split to be a finite number from 0 to 1"),
        (lambda: Consistency(2.5), "steps to be an integer of at least 1, got 2.5"),
        (lambda: Endpoint(0), "steps to be an integer of at least 1, got 0"),
    ],
)
def test_impossible_forms_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


LINE = maps.GaussianMixtureTeacher(
    torch.tensor([[1.2], [-1.0], [0.1]]),
    [0.25, 0.4, 0.15],
    [0.45, 0.35, 0.2],
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        hidden = (nn.Linear(64, 64), nn.SiLU())
        self.layers = nn.Sequential(nn.Linear(7, 64), nn.SiLU(), *hidden, nn.Linear(64, 1))

    def forward(self, x, t, delta):
        times = torch.stack([t, t - delta, delta], 1)
        return self.layers(torch.cat([x, times, torch.cos(3 * times)], 1))


def trained_error(step_loss, steps=500, n=128):
    """rms |f(z, 1, 0) - teacher's| before and after the steps of a small network, without data."""
    net, u, g = Net(), LINE.velocity, torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, betas=(0.9, 0.99))
    z, one = torch.randn(1000, 1, generator=g), torch.ones(1000)
    distance = lambda: rms(Endpoint(64).error(net, net(z, one, one), u, z, one, one))
    before = distance()
    for _ in range(steps):
        noise = torch.randn(n, 1, generator=g)
        t, s = torch.rand(2, n, generator=g).sort(0, descending=True).values
        loss = step_loss(net, u, noise, t, t - s, g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, distance()


def surrogate(form, net, u, x, t, delta, g):
    delta = t if isinstance(form, Consistency) else form.output_delta(t, delta)
    return form.prepare(len(t), g).residual(net, u, x, t, delta).surrogate().mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        Lagrangian(),
        Eulerian(),
        Semigroup(Uniform()),
        Consistency(),
        Endpoint(4, "heun"),
    ],
    ids=str,
)
def test_training_on_the_student_s_own_path_halves_the_error(form):
    """The other forms do so on this path in recipes/test_toy_training.py."""

    def loss(net, u, noise, t, delta, g):
        x = StudentPath().draw(t, net, u, noise, noise)
        value = surrogate(form, net, u, x, t, delta, g)
        return value + anchor(net, u, x, t).surrogate().mean() if form.needs_anchor else value

    before, after = trained_error(loss)
    assert after < before / 2


def along_noise(net, u, noise, t, delta, g):
    """The Eulerian form at the prior alone, which it is not closed at."""
    return surrogate(Eulerian(), net, u, noise, torch.ones_like(t), delta, g)


def without_anchor(net, u, noise, t, delta, g):
    x = StudentPath().draw(t, net, u, noise, noise)
    return surrogate(Semigroup(Uniform()), net, u, x, t, delta, g)


def anchor_alone(net, u, noise, t, delta, g):
    x = StudentPath().draw(t, net, u, noise, noise)
    return anchor(net, u, x, t).surrogate().mean()


@pytest.mark.slow
@pytest.mark.parametrize("loss", [along_noise, without_anchor, anchor_alone])
def test_what_recipes_have_to_refuse_does_not_halve_it(loss):
    before, after = trained_error(loss)
    assert after > before / 2
