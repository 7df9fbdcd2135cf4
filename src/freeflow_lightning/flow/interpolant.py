"""The linear interpolant I_t(x, z) = (1 - t) x + t z, its velocity, and the kernel that moves a
state to a noisier time.
"""

import torch
from torch import Tensor


def expand(t: Tensor, x: Tensor) -> Tensor:
    """View a per-sample scalar `t` [B] so that it broadcasts against the state `x` [B, ...].

    >>> expand(torch.zeros(2), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    if t.ndim != 1 or t.shape[0] not in (1, x.shape[0]):
        raise ValueError(
            f"expected one scalar per sample, shape [{x.shape[0]}], got shape {list(t.shape)}; "
            "use torch.full((batch,), value) for a shared time"
        )
    return t.view(-1, *[1] * (x.ndim - 1))


def hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2): torch.hypot, which ONNX does not have.

    >>> hypotenuse(torch.tensor([3.0]), torch.tensor([4.0]))
    tensor([5.])
    """
    return (a**2 + b**2).sqrt()


def interpolate(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """I_t(x, z) = (1 - t) x + t z (Sec. 3).

    Args:
        x: data, [B, ...].
        z: prior noise, [B, ...].
        t: time in [0, 1], [B]; 1 is the prior.

    >>> interpolate(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([0.25]))
    tensor([[0.2500, 0.2500]])
    """
    t = expand(t, x)
    return (1 - t) * x + t * z


def conditional_velocity(x: Tensor, z: Tensor) -> Tensor:
    """u(x_t, t | x, z) = -dI_t/dt = x - z (Sec. 3): it points from the prior to data and does not
    depend on t.
    """
    return x - z


def to_noisier(x_t: Tensor, n: Tensor, t: Tensor, t_c: Tensor) -> tuple[Tensor, Tensor]:
    r"""The kernel I_{tc|t} that takes a sample of p_t to p_tc by adding noise (App. A.1).

    $$I_{t_c | t}(x, n) = \rho x + \sqrt{t_c^2 - \rho^2 t^2}\, n, \quad
      \rho = \frac{1 - t_c}{1 - t}$$

    for $t_c > t$, and x itself for $t_c \le t$.

    Args:
        x_t: states at time t, [B, ...].
        n: fresh N(0, I) noise, shaped as x_t.
        t: time of x_t in [0, 1], [B].
        t_c: the noisier time in [0, 1], [B].

    Returns:
        The state and the time to evaluate a velocity at, max(t, t_c) [B].

    >>> x, t = to_noisier(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.0]), torch.tensor([0.75]))
    >>> x, t
    (tensor([[0.2500, 0.2500]]), tensor([0.7500]))
    """
    noisier = t_c > t
    # t = 1 is never noisier: no 0 / 0
    shrink = torch.where(noisier, (1 - t_c) / torch.where(noisier, 1 - t, 1), 1.0)
    spread = torch.where(noisier, t_c**2 - (shrink * t) ** 2, 0.0).sqrt()
    return expand(shrink, x_t) * x_t + expand(spread, x_t) * n, torch.maximum(t, t_c)
