"""The flow map f(x, t, s) = x + (t - s) F(x, t, delta), delta = t - s, of an average velocity F."""

from collections.abc import Callable

from torch import Tensor

from freeflow_lightning.flow.interpolant import expand

AverageVelocity = Callable[[Tensor, Tensor], Tensor]
"""F(z, delta) from the prior, t = 1: [B, ...] and [B] in [0, 1] to [B, ...]."""
TwoTimeVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""F(x, t, delta), the average velocity from t to s = t - delta: [B, ...], [B], [B] to [B, ...]."""


def flow_map(z: Tensor, F: Tensor, delta: Tensor) -> Tensor:
    r"""f(z, delta) = z + delta F, F the mean of u on the way; f(z, 0) = z by construction (Eq. 6).

    $$f(z, \delta) = z + \delta F(z, \delta), \quad
      \delta F(z, \delta) = -\int_1^{1 - \delta} u(x_\tau, \tau)\, d\tau$$

    From any time t it is $f(x, t, s) = x + (t - s) F(x, t, \delta)$, with $\delta = t - s$.

    >>> import torch
    >>> flow_map(torch.ones(1, 1), torch.full((1, 1), -0.5), torch.tensor([1.0]))
    tensor([[0.5000]])
    """
    return z + expand(delta, z) * F


def average_two_legs(
    F: TwoTimeVelocity,
    first: Tensor,
    x: Tensor,
    t: Tensor,
    delta: Tensor,
    share: Tensor,
) -> Tensor:
    """g v + (1 - g) F(x_m, m, s - m): the average velocity over delta of a way in two legs
    (semigroup).

    The first leg lasts g delta at the average velocity v, to x_m at m = t - g delta; F maps the
    rest.

    Args:
        F: the average velocity F(x, t, delta).
        first: v, [B, ...].
        x: states at t, [B, ...].
        t: start times in [0, 1], [B].
        delta: durations in [0, t] of both legs together, [B].
        share: g in [0, 1], [B].

    >>> import torch
    >>> one, half = torch.ones(1, 1), torch.tensor([0.5])
    >>> average_two_legs(lambda x, t, delta: x, 2 * one, one, half, half, half)  # x_m = 1.5
    tensor([[1.7500]])
    """
    step = share * delta
    rest = F(flow_map(x, first, step), t - step, delta - step)
    return expand(share, x) * first + expand(1 - share, x) * rest
