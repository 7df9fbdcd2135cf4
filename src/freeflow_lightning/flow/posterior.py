"""The posterior p(x0 | x_t) of any velocity: its inner flow, and transitions that keep p_t.

Given x0, a state x_t and a second noised copy y_s of x0 are independent Gaussian observations of
it. Together they are one noised copy x* at a time t*, so one call of the velocity at (x*, t*) is
enough: the marginal velocity u holds that of every posterior (GLASS flows, arXiv 2509.25170).
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow.interpolant import expand, hypotenuse, interpolate
from freeflow_lightning.flow.solver import Rule, Velocity, one_step_rule, uniform_grid


class OneCopy(NamedTuple):
    """Two noised copies of one x0 as a single one, and how a posterior's velocity is read off it.

    Args:
        x: x*, [B, ...].
        t: t* in [0, 1], [B].
        skip: what is added, [B, ...].
        scale: what u(x*, t*) is multiplied by, [B].
    """

    x: Tensor
    t: Tensor
    skip: Tensor
    scale: Tensor

    def posterior_velocity(self, u: Tensor) -> Tensor:
        """The inner velocity b = skip + scale u(x*, t*), [B, ...], from u(x*, t*)."""
        return self.skip + expand(self.scale, u) * u


def merge_copies(y: Tensor, s: Tensor, x: Tensor, t: Tensor) -> OneCopy:
    r"""x*, t* and the rest of `glass`, whose arguments these are.

    >>> one, half = torch.ones(1, 1), torch.tensor([0.5])
    >>> merge_copies(one, half, 9 * one, torch.ones(1))[:2]  # x_1 tells nothing
    (tensor([[1.]]), tensor([0.5000]))
    """
    q = hypotenuse(s * (1 - t), t * (1 - s))
    tells = q > 8 * torch.finfo(q.dtype).eps
    d = torch.where(tells, s * t + q, 1)
    q = torch.where(tells, q, 1)
    of_x = torch.where(tells, s * (1 - t) / (q * d), 0)
    of_u = torch.where(tells, t / d, 1)
    sin = torch.where(tells, t * (1 - s) / q, 1)

    star = expand(of_x * s, x) * x + expand(of_u * sin, y) * y
    of_y = of_u * (1 - sin) + of_x * (1 - t)
    return OneCopy(star.to(x.dtype), of_u * s, expand(of_x, x) * x - expand(of_y, y) * y, of_u)


def glass(u: Velocity, y: Tensor, s: Tensor, x: Tensor, t: Tensor) -> Tensor:
    r"""The inner velocity b(y, s; x, t) = E[x0 - e | y_s = y, x_t = x] of a posterior (GLASS).

    With y_s = (1 - s) x0 + s e, the flow dy = -b ds takes e ~ N(0, I) at s = 1 to
    x0 ~ p(x0 | x_t = x) at s = 0. With
    $q = \sqrt{s^2 (1-t)^2 + t^2 (1-s)^2}$, its angle $\cos = s (1-t) / q$, $\sin = t (1-s) / q$ and
    $d = s t + q$,

    $$b = [\cos (x - (1-t) y) - t (1 - \sin) y + t u(x^*, t^*)] / d, \quad
      x^* = (\cos s x + \sin t y) / d, \quad t^* = s t / d.$$

    It is finite for all s and t: E[x0 | x_t] - y at s = 1, y at s = 0, u(y, s) at t = 1. Where q
    vanishes within 8 roundings (s = t = 1 and s = t = 0), b = u(y, s), as if x_t told nothing. A
    guided u gives a flow as well, but to no posterior of anything.

    Args:
        u: the velocity u(x, t), asked once.
        y: inner states, [B, ...].
        s: inner times in [0, 1], [B]; 1 is the inner noise.
        x: the states that are conditioned on, [B, ...].
        t: their times in [0, 1], [B].

    >>> u = lambda x, t: x / (1 - 2 * t + 2 * t**2) * (1 - 2 * t)  # data are N(0, 1)
    >>> one = torch.ones(1)
    >>> glass(u, one, one, one, torch.tensor([0.5]))  # E[x0 | x_t] - y
    tensor([0.])
    """
    copy = merge_copies(y, s, x, t)
    return copy.posterior_velocity(u(copy.x, copy.t))


def glass_transition(u: Velocity, y: Tensor, s: Tensor, x: Tensor, t: Tensor) -> Tensor:
    r"""The inner velocity w(y, s; x, t) = E[Y - e | y_s = y, x_t = x] of Y = (x0 - x_t) / t.

    Here y_s = (1 - s) Y + s e (transition matching, arXiv 2601.09881): the flow dy = -w ds takes
    N(0, I) at s = 1 to a Y with which x_t' = x_t + (t - t') Y keeps p_t'. The same two observations
    as in `glass`, in another variable. With $p = \sqrt{(1-s)^2 + s^2 (1-t)^2}$,
    $\cos = s (1-t) / p$, $\sin = (1-s) / p$ and $d = s t + p$,

    $$w = [(\sin - t - (1-t) \cos) y - (1 - \cos) x + u(x^*, t^*)] / d, \quad
      x^* = (\sin (t y + (1-s) x) + \cos s x) / d, \quad t^* = s t / d.$$

    It is finite for all s and t: u(x, t) - y at s = 1, y at s = 0.

    Args:
        u: the velocity u(x, t), asked once.
        y: inner states, [B, ...].
        s: inner times in [0, 1], [B]; 1 is the inner noise.
        x: the states that are stepped from, [B, ...].
        t: their times in [0, 1], [B].

    >>> one = torch.ones(1)
    >>> glass_transition(lambda x, t: -x, one, one, one, torch.tensor([0.5]))  # u - y
    tensor([-2.])
    """
    p = hypotenuse(1 - s, s * (1 - t))
    corner = p == 0  # s = t = 1: x_t is noise, and all of y is
    p = torch.where(corner, 1, p)
    cos = s * (1 - t) / p
    sin = torch.where(corner, 1, (1 - s) / p)
    d = s * t + torch.where(corner, 0, p)

    star = expand(sin * t / d, y) * y + expand((sin * (1 - s) + cos * s) / d, x) * x
    velocity = u(star.to(x.dtype), s * t / d)
    of_y = (sin - t - (1 - t) * cos) / d
    return expand(of_y, y) * y - expand((1 - cos) / d, x) * x + expand(1 / d, y) * velocity


def inner_grid(t: Tensor, steps: int) -> Tensor:
    r"""Inner times 1 = s_1 > ... > s_{steps+1} = 0 with $s/(1-s) = t\,w/(1-w)$, w uniform; [k, B].

    The states y_s of a posterior are decided where s/(1-s) is about as large as t/(1-t), which is
    near 0 for a state that is hardly noised: uniform times would step over it. At t = 1 they are
    uniform.

    Args:
        t: times of the states, in (0, 1], [B].
        steps: k - 1.

    >>> inner_grid(torch.tensor([1.0, 0.25]), 2)
    tensor([[1.0000, 1.0000],
            [0.5000, 0.2000],
            [0.0000, 0.0000]])
    """
    w = uniform_grid(steps).to(t)[:, None]
    return w * t / (1 - w + w * t)


def sample_posterior(
    u: Velocity,
    e: Tensor,
    x: Tensor,
    t: Tensor,
    *,
    steps: int = 64,
    method: str | Rule = "heun",
) -> Tensor:
    """Draws of p(x0 | x_t = x), [B, ...], by the flow of `glass` along `inner_grid`.

    Args:
        u: the velocity u(x, t).
        e: inner noise N(0, I), one row for each draw, [B, ...].
        x: the state of each row, [B, ...].
        t: their times in (0, 1], [B]; 1 is noise, and the draws are those of the prior then.
        steps: of the inner flow.
        method: "euler", "heun", "midpoint", "rk4" or a rule of one's own.

    >>> u = lambda x, t: x / (1 - 2 * t + 2 * t**2)[:, None] * (1 - 2 * t)[:, None]  # N(0, 1)
    >>> half = torch.tensor([0.5, 0.5])
    >>> e, x = torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1)
    >>> sample_posterior(u, e, x, half, steps=128)  # 1 - sqrt(1/2) and 1 + sqrt(1/2)
    tensor([[0.2929],
            [1.7071]])
    """
    rule = one_step_rule(method)
    y = e
    for s, r in pairwise(inner_grid(t, steps)):
        mean = rule(lambda y, s: glass(u, y, s, x, t), y, s, r)
        y = y + expand(s - r, y) * mean
    return y


def renoise(x0: Tensor, n: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t n: to time t by noising a sample anew; x_t is p_t's if x0 is data.

    Args:
        x0: samples, [B, ...].
        n: fresh N(0, I) noise, [B, ...].
        t: times in [0, 1], [B].

    >>> renoise(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0.25]))
    tensor([[0.2500]])
    """
    return interpolate(x0, n, t)


def bridge(x0: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = x_t + (t - s) Y with Y = (x0 - x_t) / t: along the straight line from x_t to x0.

    It keeps p_s exactly if x0 is drawn from p(x0 | x_t): a transition without fresh noise.

    Args:
        x0: draws of p(x0 | x_t = x), [B, ...].
        x: states at t, [B, ...].
        t: their times in [0, 1], [B].
        s: times in [0, t] to go to, [B].

    >>> bridge(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0.5]), torch.tensor([0.25]))
    tensor([[0.5000]])
    """
    kept = torch.where(t > 0, s / t, 1)
    return expand(kept, x) * x + expand(1 - kept, x) * x0
