"""The correction objective: the noising velocity of the student's samples meets the teacher's."""

from collections.abc import Callable

import torch
from torch import Tensor

from freeflow_lightning.flow.flow_map import AverageVelocity, flow_map
from freeflow_lightning.flow.interpolant import expand, interpolate
from freeflow_lightning.flow.solver import Velocity
from freeflow_lightning.objectives.residual import Residual, residual
from freeflow_lightning.objectives.score_weight import ConstantWeight, ScoreWeight

_CONSTANT = ConstantWeight()


def correction(
    F: AverageVelocity,
    v_n: Callable[[Tensor, Tensor], Tensor],
    u: Velocity,
    z: Tensor,
    n: Tensor,
    r: Tensor,
    *,
    t: Tensor | None = None,
    weight: ScoreWeight = _CONSTANT,
    output: Tensor | None = None,
) -> Residual:
    r"""The correction residual F(z, 1) and Delta_N = v_N(x_r, r) - u(x_r, r) (Eqs. 11, 17).

    $$\nabla_\theta\, \mathbb{E}_{z, n, r} \left[ F_\theta(z, 1)^\top \mathrm{sg}(
      v_N(x_r, r) - u(x_r, r)) \right], \quad x_r = (1 - r) f(z, 1) + r n$$

    Of maps that start at t, F(x_t, t) and t Delta_N at their samples x_t + t F, which move by t
    where F moves by 1.

    Args:
        F: the student's average velocity F(z, delta).
        v_n: the marginal noising velocity of the student's samples, in practice the auxiliary
            network G(x_r, r).
        u: the teacher's velocity, guided inside its interval.
        z: prior noise, or the states that the maps start at, [B, ...].
        n: noise that the sample is carried to, N(0, I), [B, ...].
        r: times in (0, 1), [B].
        t: the maps' start times, [B]; 1 if not given.
        weight: factor on each sample's Delta_N; the paper's is 1.
        output: F(z, t) where the caller has it already.

    >>> z = torch.randn(4, 1)  # the student's law is N(0, 4) and so is the teacher's: v_N = u, the residual is 0
    >>> u = lambda x, t: x * ((1 - t) * 4 - t)[:, None] / ((1 - t) ** 2 * 4 + t**2)[:, None]
    >>> correction(lambda z, delta: z, u, u, z, torch.randn(4, 1), torch.rand(4)).norm()
    tensor([0., 0., 0., 0.])
    """
    t = torch.ones_like(r) if t is None else t
    output = F(z, t) if output is None else output
    with torch.no_grad():
        x0 = flow_map(z, output, t)
        x_r = interpolate(x0, n, r)
        velocity = u(x_r, r)
        error = v_n(x_r, r).to(x_r.dtype) - velocity  # in x's precision, not the networks'
        factor = t * weight(x0, x_r, velocity, r)
        return residual(output, expand(factor, error) * error)
