import math

import torch

from freeflow_lightning.flow import interpolate
from freeflow_lightning.objectives import DMDWeight, correction
from objectives.gaussian import M, S, batch, flow, teacher_velocity
from objectives.networks import Small, autograd_gradient, jacobian_gradient


def affine(a, b):
    """The student whose samples are a + b z."""
    return lambda z, delta: a + (b - 1) * z


def test_residual_is_0_if_the_student_is_the_teacher():
    z, n, r = batch()
    assert (
        correction(affine(M, S), teacher_velocity(), teacher_velocity(), z, n, r).error.abs().max()
        == 0
    )
    f = flow(z, torch.ones_like(r))  # the exact flow map at delta = 1 gives those samples
    torch.testing.assert_close(z + f, M + S * z)


def test_a_student_with_a_displaced_mean_is_pushed_back():
    """Both N(., S^2): v_N - u = (a - M) r / v, v = (1 - r)^2 S^2 + r^2."""
    z, n, r = batch()
    for a in (M - 1, M + 1):
        error = correction(affine(a, S), teacher_velocity(m=a), teacher_velocity(), z, n, r).error
        expected = (a - M) * r / ((1 - r) ** 2 * S**2 + r**2)
        torch.testing.assert_close(
            error, expected[:, None].expand_as(error), atol=1e-12, rtol=1e-12
        )


def test_a_student_that_is_too_narrow_is_widened():
    """Descent on F = M + (b - 1) z moves b by -E[error z], towards S from either side."""
    z, n, r = batch(20_000, 1)
    for b, sign in ((S / 2, 1), (2 * S, -1)):
        error = correction(
            affine(M, b), teacher_velocity(s=b, d=1), teacher_velocity(d=1), z, n, r
        ).error
        push = -(error * z)
        assert sign * push.mean() > 5 * push.std() / math.sqrt(len(z))


def test_the_velocities_are_asked_at_the_noised_samples():
    z, n, r = batch(5)
    asked, graph = [], []
    v = lambda x, t: (asked.append((x, t)), graph.append(torch.is_grad_enabled()), x)[2]
    net = Small()
    error = correction(net, v, lambda x, t: 3 * v(x, t), z, n, r).error
    x_r = interpolate(z + net(z, torch.ones_like(r)).detach(), n, r)
    torch.testing.assert_close(asked, [(x_r, r)] * 2)
    assert not any(graph)
    torch.testing.assert_close(error, -2 * x_r)


def test_a_weight_sees_the_samples_and_what_the_teacher_says_of_them():
    """r / mean |x0 - (x_r + r u)| of each sample, by hand."""
    z, n, r = batch(5)
    F, u, v = affine(M + 1, S), teacher_velocity(), teacher_velocity(m=M + 1)
    x0 = M + 1 + S * z
    x_r = interpolate(x0, n, r)
    distance = (x0 - x_r - r[:, None] * u(x_r, r)).abs().mean(1)
    expected = (r / distance)[:, None] * correction(F, v, u, z, n, r).error
    got = correction(F, v, u, z, n, r, weight=DMDWeight()).error
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


def test_gradient_is_eq_11():
    net, G, u, (z, n, r) = Small(), Small(seed=1), teacher_velocity(), batch(6)
    one = torch.ones_like(r)
    x_r = (1 - r)[:, None] * (z + net(z, one)) + r[:, None] * n
    expected = jacobian_gradient(net, z, one, (G(x_r, r) - u(x_r, r)).detach())
    surrogate = correction(net, G, u, z, n, r).surrogate().sum()
    torch.testing.assert_close(autograd_gradient(net, surrogate), expected, atol=1e-12, rtol=1e-12)


def test_no_gradient_reaches_the_auxiliary_the_teacher_or_the_error():
    net, G, teacher, (z, n, r) = Small(), Small(seed=1), Small(seed=2), batch(6)
    residual = correction(net, G, teacher, z, n, r)
    assert not residual.error.requires_grad
    residual.surrogate().sum().backward()
    assert all(p.grad is None for p in [*G.parameters(), *teacher.parameters()])
    assert all(p.grad is not None for p in net.parameters())


def test_a_given_output_changes_nothing():
    net, G, u, (z, n, r) = Small(), Small(seed=1), teacher_velocity(), batch(6)
    asked = []
    F = lambda z, delta: (asked.append(delta), net(z, delta))[1]
    expected = correction(F, G, u, z, n, r)
    given = correction(F, G, u, z, n, r, output=net(z, torch.ones_like(r)))
    assert torch.equal(given.error, expected.error)
    assert torch.equal(given.output, expected.output)
    assert torch.equal(torch.stack(asked), torch.ones(1, 6))


def test_the_difference_of_two_bfloat16_velocities_is_taken_in_float32():
    z, n, r = (value.float() for value in batch(100))
    v, u = (lambda x, t: (x * 1.37).bfloat16()), (lambda x, t: (x.flip(1) * 0.73).bfloat16())
    error = correction(lambda z, delta: z, v, u, z, n, r).error
    x_r = interpolate(2 * z, n, r)
    assert torch.equal(error, v(x_r, r).float() - u(x_r, r).float())
