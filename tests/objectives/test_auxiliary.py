import math

import pytest
import torch

from freeflow_lightning.objectives import auxiliary
from objectives.gaussian import M, S, batch, teacher_velocity
from objectives.networks import Small, autograd_gradient

N = 200_000


def samples(n=N):
    z, noise, _ = batch(n, 1)
    return M + S * z, noise


@pytest.mark.parametrize("r", [0.1, 0.5, 0.9])
def test_the_optimum_over_affine_functions_is_the_marginal_velocity(r):
    f, n = samples()
    time = torch.full((N,), r, dtype=torch.float64)
    p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    features = []

    def affine(x, r):
        features.append(torch.cat([torch.ones_like(x), x], 1))
        return (features[-1] @ p)[:, None]

    gradient = torch.autograd.grad(auxiliary(affine, f, n, time).surrogate().mean(), p)[0]
    optimum = -torch.linalg.solve(
        features[0].T @ features[0] / N, gradient
    )  # the surrogate's gradient is linear in p
    slope = ((1 - r) * S**2 - r) / ((1 - r) ** 2 * S**2 + r**2)
    expected = torch.tensor([M - slope * (1 - r) * M, slope], dtype=torch.float64)
    torch.testing.assert_close(optimum, expected, atol=0.03, rtol=0.01)


@pytest.mark.parametrize(
    "function", [torch.ones_like, torch.sin, torch.square, lambda x: (x > 1).to(x.dtype)]
)
def test_at_the_optimum_the_error_is_orthogonal_to_every_function_of_the_state(function):
    f, n = samples()
    r = batch(N, 1)[2]
    x_r = (1 - r)[:, None] * f + r[:, None] * n
    u = teacher_velocity(d=1)
    product = auxiliary(u, f, n, r).error * function(x_r)
    assert abs(product.mean()) < 4.5 * product.std() / math.sqrt(N)
    wrong = auxiliary(lambda x, r: u(x, r) + 0.1, f, n, r).error * function(x_r)
    assert abs(wrong.mean()) > 4.5 * wrong.std() / math.sqrt(
        N
    )  # the test has the power to see a tenth


def test_error_by_hand():
    r = auxiliary(
        lambda x, r: x, torch.tensor([[4.0]]), torch.tensor([[-2.0]]), torch.tensor([0.25])
    )
    assert r.output.item() == 2.5  # 0.75 * 4 - 0.25 * 2
    assert r.error.item() == 2.5 - 6.0


def test_gradient_is_half_that_of_eq_12():
    G, (f, n, r) = Small(), batch(6)
    squared = (G((1 - r)[:, None] * f + r[:, None] * n, r) - (f - n)).square().sum()
    half = autograd_gradient(G, auxiliary(G, f, n, r).surrogate().sum())
    torch.testing.assert_close({k: 2 * v for k, v in half.items()}, autograd_gradient(G, squared))


def test_no_gradient_reaches_the_student():
    G, student, (z, n, r) = Small(), Small(seed=1), batch(6)
    residual = auxiliary(G, z + student(z, torch.ones_like(r)), n, r)
    assert not residual.error.requires_grad
    residual.surrogate().sum().backward()
    assert all(p.grad is None for p in student.parameters())
    assert all(p.grad is not None for p in G.parameters())


def test_a_given_output_changes_nothing():
    G, (f, n, r) = Small(), batch(6)
    x_r = (1 - r)[:, None] * f + r[:, None] * n
    calls = []
    given = auxiliary(lambda x, r: calls.append(x), f, n, r, output=G(x_r, r))
    assert torch.equal(given.error, auxiliary(G, f, n, r).error)
    assert not calls
