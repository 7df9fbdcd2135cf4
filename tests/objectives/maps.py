"""Exact maps F(x, t, delta) of two teachers, a wrong one, and the errors written a second time."""

import torch
from torch import Tensor

from freeflow_lightning.teachers import GaussianMixtureTeacher

M, S = 0.7, 0.4
MIXTURE = GaussianMixtureTeacher(
    torch.tensor([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.2]], dtype=torch.float64),
    [0.5, 0.7, 0.4],
    [0.5, 0.3, 0.2],
)


def sigma(t: Tensor) -> Tensor:
    """The width of p_t for data N(M, S^2)."""
    return ((1 - t) ** 2 * S**2 + t**2).sqrt()


def gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    slope = ((1 - t) * S**2 - t) / sigma(t) ** 2
    return M + slope[:, None] * (x - (1 - t)[:, None] * M)


def gaussian_map(x: Tensor, t: Tensor, delta: Tensor) -> Tensor:
    """F in closed form, without 0 / 0 at delta = 0."""
    s = t - delta
    slope = ((t + s) * (1 + S**2) - 2 * S**2) / ((sigma(t) + sigma(s)) * sigma(t))
    return M - slope[:, None] * (x - (1 - t)[:, None] * M)


def mixture_velocity(x: Tensor, t: Tensor) -> Tensor:
    return MIXTURE.velocity(x, t)


def mixture_map(x: Tensor, t: Tensor, delta: Tensor, steps: int = 100) -> Tensor:
    """F by 100 steps of RK4, differentiable."""
    h, start = delta / steps, x
    for i in range(steps):
        x = rk4_step(mixture_velocity, x, t - i * h, h)
    return (x - start) / delta[:, None]


def rk4_step(u, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    step = h[:, None]
    k1 = u(x, t)
    k2 = u(x + step / 2 * k1, t - h / 2)
    k3 = u(x + step / 2 * k2, t - h / 2)
    k4 = u(x + step * k3, t - h)
    return x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def off(F):
    """The map F + 0.1 sin(2 x + 3 t - 2 s)."""

    def wrong(x, t, delta):
        phase = 3 * t - 2 * (t - delta)
        return F(x, t, delta) + 0.1 * torch.sin(2 * x + phase[:, None])

    return wrong


def batch(n: int = 64, d: int = 2, low: float = 0.02) -> tuple[Tensor, Tensor, Tensor]:
    """x, t, delta in float64: s from 0 to 1 - low, t - s from low to 1 - s, x between the modes."""
    g = torch.Generator().manual_seed(0)
    s = (1 - low) * torch.rand(n, generator=g, dtype=torch.float64)
    t = s + low + (1 - s - low) * torch.rand(n, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64), t, t - s


# The errors with F(x, t, s), as the papers write them


def by_end(F):
    return lambda x, t, s: F(x, t, t - s)


def eulerian(F, u, x, t, delta):
    F, s, v = by_end(F), t - delta, u(x, t)
    output, slope = torch.func.jvp(lambda x, t: F(x, t, s), (x, t), (-v, torch.ones_like(t)))
    return output + (t - s)[:, None] * slope - v


def lagrangian(F, u, x, t, delta):
    F, s = by_end(F), t - delta
    output, slope = torch.func.jvp(lambda s: F(x, t, s), (s,), (torch.ones_like(s),))
    return output - (t - s)[:, None] * slope - u(x + (t - s)[:, None] * output, s)


def semigroup(F, u, x, t, delta, g=0.5):
    F, s = by_end(F), t - delta
    m = t - g * (t - s)
    first = F(x, t, m)
    return F(x, t, s) - g * first - (1 - g) * F(x + (t - m)[:, None] * first, m, s)


def discrete_eulerian(F, u, x, t, delta, alpha):
    F, s = by_end(F), t - delta
    h = alpha * (t - s)
    v = u(x, t)
    v = (v + u(x + h[:, None] * v, t - h)) / 2
    end = F(x + h[:, None] * v, t - h, s)
    return (F(x, t, s) - alpha * v - (1 - alpha) * end) / alpha


def consistency(F, u, x, t, delta, steps):
    """For s = 0: f(x, t, 0) against f(x', t', 0), over t."""
    F, zero = by_end(F), 0 * t
    later = (t - 1 / steps).clamp(min=0)
    h = (t - later)[:, None]
    v = u(x, t)
    x_later = x + h * (v + u(x + h * v, later)) / 2
    end = x_later + later[:, None] * F(x_later, later, zero)
    return (x + t[:, None] * F(x, t, zero) - end) / t[:, None]


def endpoint(F, u, x, t, delta, steps):
    end = x
    for i in range(steps):
        end = rk4_step(u, end, t - i * delta / steps, delta / steps)
    return F(x, t, delta) - (end - x) / delta[:, None]
