"""Eulerian forms: the start of the map moves along the teacher's path, and its end is held."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freeflow_lightning.flow.checks import check_counts, check_numbers
from freeflow_lightning.flow.flow_map import TwoTimeVelocity, average_two_legs
from freeflow_lightning.flow.interpolant import expand
from freeflow_lightning.flow.solver import Rule, Velocity, one_step_rule
from freeflow_lightning.objectives.map_objective import DerivativeForm, StepForm, find_share


@dataclass(frozen=True)
class Eulerian(DerivativeForm):
    r"""Delta_E = F + (t - s) [dF/dt - (grad_x F) u] - u(x, t) (Eqs. 4-5), along (-u, +1, +1).

    $$F(x, t, \delta) + \delta \left( \frac{\partial F}{\partial t}
      + \frac{\partial F}{\partial \delta} - (\nabla_x F)\, u \right) = u(x, t)$$

    The start moves on the teacher's path while s is held: x by -u, t and delta by +1. MeanFlow
    (arXiv 2505.13447). AYF-EMD (2506.14603) warms the tangent up from 0 to 0.99
    (`flow.tangent_share`) and weighs the residual by `normalise` and `weigh_by_duration`; sCD
    (2410.11081) is the same at s = 0 (`ToData`). The derivative leaves t = 1: states at the prior
    alone do not determine the map.

    Args:
        derivative: ExactJVP, CentralDifference or ForwardDifference.
        tangent: r, the share of the derivative that counts; what it lacks to 1 makes F straight.

    >>> one = torch.ones(1, 1)  # the exact map of u = -x is f = exp(-delta) x
    >>> F = lambda x, t, delta: x * torch.expm1(-delta)[:, None] / delta[:, None]
    >>> half = torch.tensor([0.5])
    >>> abs(Eulerian().residual(F, lambda x, t: -x, one, half, half).error) < 1e-6
    tensor([[True]])
    """

    tangent: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(0, 1, tangent=self.tangent)

    @torch.no_grad()
    def error(
        self,
        F: TwoTimeVelocity,
        output: Tensor,
        u: Velocity,
        x: Tensor,
        t: Tensor,
        delta: Tensor,
    ) -> Tensor:
        v = u(x, t)
        along_path = self.derivative.along(F, (x, t, delta), (-v, 1.0, 1.0), output)
        return output + expand(self.tangent * delta, x) * along_path - v

    def warm_up(self, share: float) -> "Eulerian":
        return replace(self, tangent=share * self.tangent)

    @property
    def differentiates_time(self) -> bool:
        return True

    @property
    def time_step(self) -> float:
        return self.derivative.width


@dataclass(frozen=True)
class DiscreteEulerian(StepForm):
    """Delta_alpha = (F - alpha u - (1 - alpha) F(x_m, m, s)) / alpha, x_m = x + alpha (t - s) u.

    AlphaFlow (arXiv 2510.20771): a step of the teacher over a share alpha of the way, then the
    student's own map. No derivative; it tends to Delta_E as alpha does to 0. Its fixed point is off
    by O(alpha) with Euler and by O(alpha^2) with Heun. The division makes rounding 1 / alpha times
    as large: keep alpha at least 0.05 where outputs are bfloat16.

    Args:
        alpha: the teacher's share of the way, in (0, 1].
        method: the one-step rule of u: "heun", "euler" (as published), "midpoint", "rk4" or a
            callable.

    >>> one, half = torch.ones(1, 1), torch.tensor([0.5])
    >>> DiscreteEulerian(0.5, "euler").error(
    ...     lambda x, t, delta: 2 * x, 2 * one, lambda x, t: -x, one, half, half
    ... )  # (2 + 0.5 - 0.75) / 0.5
    tensor([[3.5000]])
    """

    alpha: float = 0.05
    method: str | Rule = "heun"

    def __post_init__(self) -> None:
        one_step_rule(self.method)
        check_numbers(0, 1, without_low=True, alpha=self.alpha)

    @torch.no_grad()
    def error(
        self,
        F: TwoTimeVelocity,
        output: Tensor,
        u: Velocity,
        x: Tensor,
        t: Tensor,
        delta: Tensor,
    ) -> Tensor:
        share = torch.full_like(t, self.alpha)
        v = one_step_rule(self.method)(u, x, t, t - share * delta)
        return (output - average_two_legs(F, v, x, t, delta, share)) / self.alpha


@dataclass(frozen=True)
class Consistency(StepForm):
    """F - (f(x', t - h, s) - x) / (t - s): a step of the teacher, then the same end by the student.

    Consistency distillation (arXiv 2303.01469), whose end is s = 0 (`ToData`), in units of F; the
    step is h = 1 / N or what is left of the way. `Eulerian` is its limit (sCD, at s = 0), of which
    this error is h / (t - s) times.

    Args:
        steps: N, the steps of the grid from 1 to 0.
        method: the one-step rule of u: "heun", "euler", "midpoint", "rk4" or a callable.

    >>> one, half = torch.ones(1, 1), torch.tensor([0.5])
    >>> Consistency(4, "euler").error(
    ...     lambda x, t, delta: 2 * x, 2 * one, lambda x, t: -x, one, half, half
    ... )  # x' = 0.75 and its end 1.125: 2 - 0.125 / 0.5
    tensor([[1.7500]])
    """

    steps: int = 32
    method: str | Rule = "heun"

    def __post_init__(self) -> None:
        one_step_rule(self.method)
        check_counts(1, steps=self.steps)

    @torch.no_grad()
    def error(
        self,
        F: TwoTimeVelocity,
        output: Tensor,
        u: Velocity,
        x: Tensor,
        t: Tensor,
        delta: Tensor,
    ) -> Tensor:
        share = find_share(torch.full_like(t, 1 / self.steps), delta)
        v = one_step_rule(self.method)(u, x, t, t - share * delta)
        return output - average_two_legs(F, v, x, t, delta, share)

    def active_rows(self, t: Tensor, delta: Tensor) -> Tensor:
        return delta > 1 / self.steps
