"""Lagrangian forms: the map's end moves, its start is held; its velocity meets the teacher's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freeflow_lightning.flow.checks import check_counts
from freeflow_lightning.flow.derivative import ALONG_DELTA, ExactJVP
from freeflow_lightning.flow.distributions import GridStep, grid_step
from freeflow_lightning.flow.flow_map import TwoTimeVelocity, flow_map
from freeflow_lightning.flow.interpolant import expand
from freeflow_lightning.flow.solver import Rule, Velocity, chord_rule
from freeflow_lightning.objectives.map_objective import DerivativeForm, StepForm, find_share
from freeflow_lightning.objectives.residual import Residual, residual


@dataclass(frozen=True)
class Lagrangian(DerivativeForm):
    r"""Delta_L = F + delta dF/d(delta) - u(f(x, t, s), s), the generating velocity against u.

    $$F(x, t, \delta) + \delta \frac{\partial F}{\partial \delta}
      = u(f(x, t, s), s), \quad s = t - \delta$$

    AYF-LMD (arXiv 2506.14603) and LSD (2505.18825) with stop-gradient; `ContinuousPrediction` is
    this form at t = 1. With the full gradient (LSD's own; TVM, 2511.19797) the output is
    $G = F + \delta \, \partial F / \partial \delta$ with its derivative attached, and the error of
    G is the same; the fixed point is the same, at about twice the memory.

    Args:
        derivative: ExactJVP, CentralDifference or ForwardDifference.
        full_gradient: let the gradient flow through dF/d(delta) as well; ExactJVP alone.

    >>> one = torch.ones(1, 1)  # the exact map of u = -x is f = exp(-delta) x
    >>> F = lambda x, t, delta: x * torch.expm1(-delta)[:, None] / delta[:, None]
    >>> half = torch.tensor([0.5])
    >>> abs(Lagrangian().residual(F, lambda x, t: -x, one, half, half).error) < 1e-6
    tensor([[True]])
    """

    full_gradient: bool = False

    def __post_init__(self) -> None:
        if self.full_gradient and not isinstance(self.derivative, ExactJVP):
            raise ValueError(
                "the full gradient needs the derivative on the graph, which only ExactJVP gives: "
                "use derivative=ExactJVP() or full_gradient=False, whose fixed point is the same"
            )

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
        slope = self.derivative.along(F, (x, t, delta), ALONG_DELTA, output)
        v_g = output + expand(delta, x) * slope
        return v_g - u(flow_map(x, output, delta), t - delta)

    def residual(
        self,
        F: TwoTimeVelocity,
        u: Velocity,
        x: Tensor,
        t: Tensor,
        delta: Tensor,
        *,
        output: Tensor | None = None,
    ) -> Residual:
        """F and its error; with the full gradient G and its error, F being evaluated with G."""
        if not (self.full_gradient and isinstance(self.derivative, ExactJVP)):
            return super().residual(F, u, x, t, delta, output=output)
        output, slope = self.derivative.attached(F, (x, t, delta))
        v_g = output + expand(delta, x) * slope
        with torch.no_grad():
            return residual(v_g, v_g - u(flow_map(x, output, delta), t - delta))

    @property
    def evaluates_output(self) -> bool:
        return self.full_gradient

    @property
    def closed_at_prior(self) -> bool:
        return True


@dataclass(frozen=True)
class DiscreteLagrangian(StepForm):
    """v_G = (f_{i+1} - f_i) / h against the teacher's mean velocity from f_i over that step.

    Eq. 14 from any start: the way from t to 0 has N steps of h = t / N, and the last one before s
    counts. At t = 1 it is `DiscretePrediction`.

    Args:
        steps: N, the steps of the way from t to 0.
        method: the one-step rule of u: "heun", "euler", "midpoint", "rk4", "implicit_midpoint" or
            a callable.

    >>> form = DiscreteLagrangian(4)
    >>> form.output_delta(torch.tensor([0.8]), torch.tensor([0.3]))  # on the grid of steps of 0.2
    tensor([0.4000])
    """

    steps: int = 8
    method: str | Rule = "heun"

    def __post_init__(self) -> None:
        chord_rule(self.method)
        check_counts(1, steps=self.steps)

    def output_delta(self, t: Tensor, delta: Tensor) -> Tensor:
        return t * self._grid_step(t, delta).end

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
        share = find_share(t * (1 / self.steps), delta)
        delta_start = (1 - share) * delta
        before = F(x, t, delta_start)
        v_g = (output - expand(1 - share, x) * before) / expand(share, x)
        f_start = flow_map(x, before, delta_start)
        f_end = flow_map(x, output, delta)
        return v_g - chord_rule(self.method)(u, f_start, f_end, t - delta_start, t - delta)

    def active_rows(self, t: Tensor, delta: Tensor) -> Tensor:
        return ~self._grid_step(t, delta).is_first

    def _grid_step(self, t: Tensor, delta: Tensor) -> GridStep:
        return grid_step(torch.where(t > 0, delta / t, 0), self.steps)

    @property
    def closed_at_prior(self) -> bool:
        return True
