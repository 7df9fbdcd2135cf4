"""The teacher N(M, S^2) in every dimension, whose flow map is known: f(z, delta) = delta M + sigma z."""

import torch
from torch import Tensor

from freeflow_lightning.teachers import GaussianMixtureTeacher

M, S = 1.5, 0.4


def teacher_velocity(m: float = M, s: float = S, d: int = 3):
    """u(x, t) of N(m, s^2 I) in float64."""
    teacher = GaussianMixtureTeacher(torch.full((1, d), m, dtype=torch.float64), s)
    return lambda x, t: teacher.velocity(x, t, None)


def flow(z: Tensor, delta: Tensor) -> Tensor:
    """The exact F: with sigma^2 = delta^2 S^2 + (1 - delta)^2, F = (f - z) / delta = M + z (sigma - 1) / delta."""
    delta = delta[:, None]
    sigma = (delta**2 * S**2 + (1 - delta) ** 2).sqrt()
    return M + z * (delta * S**2 - 2 + delta) / (sigma + 1)


def batch(n: int = 32, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """z, n and delta (or r) in float64."""
    g = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return z, noise, 0.05 + 0.9 * torch.rand(n, generator=g, dtype=torch.float64)
