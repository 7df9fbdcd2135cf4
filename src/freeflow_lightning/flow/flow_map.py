"""The flow map f(x, t, s) = x + (t - s) F(x, t, delta), delta = t - s, of an average velocity F."""

from collections.abc import Callable

from torch import Tensor

from freeflow_lightning.flow.interpolant import expand

AverageVelocity = Callable[[Tensor, Tensor], Tensor]
"""F(z, delta) from the prior, t = 1: [B, ...] and [B] in [0, 1] to [B, ...]."""
TwoTimeVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""F(x, t, delta), the average velocity from t to s = t - delta: [B, ...], [B], [B] to [B, ...]."""


def flow_map(z: Tensor, F: Tensor, delta: Tensor) -> Tensor:
    """f(z, delta) = z + delta F (Sec. 4); f(z, 0) = z by construction.

    From any time t it is f(x, t, s) = x + (t - s) F(x, t, delta), with delta = t - s.

    >>> import torch
    >>> flow_map(torch.ones(1, 1), torch.full((1, 1), -0.5), torch.tensor([1.0]))
    tensor([[0.5000]])
    """
    return z + expand(delta, z) * F
