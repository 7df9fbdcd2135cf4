import math

import pytest
import torch

from freeflow_lightning.flow import conditional_velocity, expand, interpolate, to_noisier


def pair(n=6, d=3):
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return x, z, torch.rand(n, generator=g, dtype=torch.float64)


def test_expand_lines_up_with_the_batch():
    t = torch.tensor([1.0, 2.0])
    assert torch.equal(
        expand(t, torch.zeros(2, 3, 4, 5)).expand(2, 3, 4, 5)[1], torch.full((3, 4, 5), 2.0)
    )
    assert expand(torch.zeros(1), torch.zeros(7, 2)).shape == (1, 1)


@pytest.mark.parametrize("shape", [(), (3,), (2, 1)])
def test_expand_refuses_what_is_not_one_scalar_per_sample(shape):
    with pytest.raises(ValueError, match=r"one scalar per sample, shape \[2\]"):
        expand(torch.zeros(shape), torch.zeros(2, 4))


def test_interpolant_is_data_at_0_and_prior_at_1():
    x, z, t = pair()
    assert torch.equal(interpolate(x, z, 0 * t), x)
    assert torch.equal(interpolate(x, z, 0 * t + 1), z)


def test_interpolant_by_hand():
    assert (
        interpolate(torch.tensor([[8.0]]), torch.tensor([[-4.0]]), torch.tensor([0.25])).item()
        == 5.0
    )


def test_conditional_velocity_is_minus_the_time_derivative():
    x, z, t = pair()
    slope = torch.func.jvp(lambda s: interpolate(x, z, s), (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(conditional_velocity(x, z), -slope)
    torch.testing.assert_close(
        interpolate(x, z, t) + t[:, None] * conditional_velocity(x, z), x
    )  # one step reaches data


def coefficients(t, t_c):
    one, zero = torch.ones(len(t), 1, dtype=t.dtype), torch.zeros(len(t), 1, dtype=t.dtype)
    return to_noisier(one, zero, t, t_c)[0][:, 0], to_noisier(zero, one, t, t_c)[0][:, 0]


def test_to_noisier_has_the_coefficients_of_a_noising_kernel():
    t, t_c = (
        torch.rand(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        .sort(0)
        .values
    )
    shrink, spread = coefficients(t, t_c)
    torch.testing.assert_close(shrink * (1 - t), 1 - t_c)
    torch.testing.assert_close((shrink * t) ** 2 + spread**2, t_c**2)


def test_to_noisier_by_hand():
    shrink, spread = coefficients(torch.tensor([0.5]), torch.tensor([0.75]))
    assert shrink.item() == 0.5
    assert spread.item() == pytest.approx(math.sqrt(0.5))  # 0.5625 - (0.5 * 0.5)^2 = 0.5


def test_to_noisier_maps_the_marginal_at_t_to_the_marginal_at_t_c():
    n, m, s, t, t_c = 400_000, 2.0, 0.5, 0.3, 0.8
    g = torch.Generator().manual_seed(1)
    x, z, noise = torch.randn(3, n, 1, generator=g, dtype=torch.float64)
    t, t_c = (torch.full((n,), value, dtype=torch.float64) for value in (t, t_c))
    y, time = to_noisier(interpolate(m + s * x, z, t), noise, t, t_c)
    variance = 0.2**2 * s**2 + 0.8**2
    assert torch.equal(time, t_c)
    assert abs(y.mean() - 0.2 * m) < 5 * math.sqrt(variance / n)
    assert abs(y.var() - variance) < 5 * variance * math.sqrt(2 / n)


@pytest.mark.parametrize("t_c", [0.0, 0.3, 0.7, 1.0])
def test_to_noisier_leaves_the_prior_untouched(t_c):
    x, n = torch.randn(2, 4, 3)
    y, time = to_noisier(x, n, torch.ones(4), torch.full((4,), t_c))
    assert torch.equal(y, x)
    assert torch.equal(time, torch.ones(4))


def test_to_noisier_is_the_identity_where_t_c_is_not_noisier():
    x, n = torch.randn(2, 3, 2)
    t = torch.tensor([0.2, 0.5, 0.9])
    y, time = to_noisier(x, n, t, torch.tensor([0.0, 0.5, 0.89]))
    assert torch.equal(y, x)
    assert torch.equal(time, t)


def test_to_noisier_at_t_c_1_is_pure_noise():
    x, n = torch.randn(2, 3, 2)
    assert torch.equal(to_noisier(x, n, torch.tensor([0.0, 0.4, 0.999]), torch.ones(3))[0], n)


def test_to_noisier_is_finite_between_neighbouring_floats():
    t = torch.rand(10_000, generator=torch.Generator().manual_seed(2))
    x = torch.ones(len(t), 1)
    y, _ = to_noisier(x, x, t, torch.nextafter(t, torch.ones(1)))
    assert y.isfinite().all()
