"""DiscretePath: a variance-preserving path that a network knows at integer steps alone."""

import torch
from torch import Tensor

from freeflow_lightning.flow import check_numbers
from freeflow_lightning.teachers.gaussian_path import GaussianPath
from freeflow_lightning.teachers.predictions import Coefficients, norm

LEAST_ABAR = 2.0**-24
"""Lower abar count as this one, as in diffusers' Euler schedulers: a schedule of zero terminal
signal has sigma = inf.
"""


def log_sigmas(abars: Tensor) -> Tensor:
    """log sigma_k, sigma = sqrt((1 - abar) / abar) the noise over the signal, rising, float64
    [K].
    """
    kept = abars.double().clamp(min=LEAST_ABAR)
    return ((1 - kept) / kept).log() / 2


def step_of(t: Tensor, table: Tensor) -> Tensor:
    """k(t): the fractional step at which log sigma passes log t / (1 - t), linear between steps,
    [B] in [0, K - 1].

    Args:
        t: times in [0, 1], [B]; beyond the table they give its end.
        table: rising log sigmas, [K].

    >>> step_of(torch.tensor([0.5, 2 / 3, 1.0]), torch.tensor([1.0, 2.0, 4.0]).log()).round(decimals=3)
    tensor([0., 1., 2.])
    """
    wide = torch.promote_types(t.dtype, torch.float32)
    table = table.to(t.device, wide, non_blocking=True)
    log_sigma = t.to(wide).logit().clamp(table[0], table[-1])
    # torch.searchsorted, which ONNX does not have
    k = (table < log_sigma[..., None]).sum(-1).clamp(1, len(table) - 1)
    return k - 1 + (log_sigma - table[k - 1]) / (table[k] - table[k - 1])


class DiscretePath(GaussianPath):
    """A variance-preserving path known at integer steps: y = sqrt(abar_k) data + sqrt(1 - abar_k)
    noise.

    tau is t; the network is given k(t), and the coefficients are those of t itself, exact between
    the steps too.

    Args:
        abars: abar_k, falling, [K].
        whole_steps: give the network integer steps, the nearest.
        t_max: highest t at which the network is asked; the table's end if that is lower.
    """

    def __init__(self, abars: Tensor, whole_steps: bool = False, t_max: float = 1.0) -> None:
        if (
            abars.ndim != 1
            or len(abars) < 2
            or not bool((abars.diff() < 0).all())
            or not 0 <= abars[-1] < abars[0] < 1
        ):
            raise ValueError("expected at least two falling abars (alphas_cumprod) in [0, 1)")
        self.abars = abars
        self.log_sigmas = log_sigmas(abars)
        self.whole_steps = whole_steps
        self.t_min, last = (
            float(end.sigmoid()) for end in (self.log_sigmas[0], self.log_sigmas[-1])
        )
        check_numbers(self.t_min, 1, without_low=True, t_max=t_max)
        self.t_max = min(t_max, last)

    def tau(self, t: Tensor) -> Tensor:
        return t

    def coefficients(self, tau: Tensor) -> Coefficients:
        m = norm(tau)
        a, b = (1 - tau) / m, tau / m
        return Coefficients(a, b, -b / m**2, a / m**2)

    def network_time(self, tau: Tensor) -> Tensor:
        k = step_of(tau, self.log_sigmas)
        return k.round() if self.whole_steps else k
