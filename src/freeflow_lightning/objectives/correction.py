"""The correction objective: the noising velocity of the student's samples meets the teacher's."""

from collections.abc import Callable

import torch
from torch import Tensor

from freeflow_lightning.flow.flow_map import AverageVelocity, flow_map
from freeflow_lightning.flow.interpolant import interpolate
from freeflow_lightning.flow.solver import Velocity
from freeflow_lightning.objectives.residual import Residual, residual


def correction(
    F: AverageVelocity,
    v_n: Callable[[Tensor, Tensor], Tensor],
    u: Velocity,
    z: Tensor,
    n: Tensor,
    r: Tensor,
    *,
    output: Tensor | None = None,
) -> Residual:
    """The correction residual F(z, 1) and Delta_N = v_N(x_r, r) - u(x_r, r) (Eqs. 11, 17).

    Args:
        F: the student's average velocity F(z, delta).
        v_n: the marginal noising velocity of the student's samples, in practice the auxiliary
            network G(x_r, r).
        u: the teacher's velocity, guided inside its interval.
        z: prior noise, [B, ...].
        n: noise that the sample is carried to, N(0, I), [B, ...].
        r: times in (0, 1), [B].
        output: F(z, 1) where the caller has it already.

    >>> z = torch.randn(4, 1)  # the student's law is N(0, 4) and so is the teacher's: v_N = u, the residual is 0
    >>> u = lambda x, t: x * ((1 - t) * 4 - t)[:, None] / ((1 - t) ** 2 * 4 + t**2)[:, None]
    >>> correction(lambda z, delta: z, u, u, z, torch.randn(4, 1), torch.rand(4)).norm()
    tensor([0., 0., 0., 0.])
    """
    one = torch.ones_like(r)
    output = F(z, one) if output is None else output
    with torch.no_grad():
        x_r = interpolate(flow_map(z, output, one), n, r)
        return residual(
            output, v_n(x_r, r).to(x_r.dtype) - u(x_r, r)
        )  # in x's precision, not the networks'
