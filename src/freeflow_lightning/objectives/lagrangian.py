"""Lagrangian forms: the map's end moves, its start is held; its velocity meets the teacher's."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from freeflow_lightning.flow.checks import check_counts
from freeflow_lightning.flow.derivative import ALONG_DELTA, Derivative, ExactJVP
from freeflow_lightning.flow.distributions import floor_to_grid
from freeflow_lightning.flow.flow_map import TwoTimeVelocity, flow_map
from freeflow_lightning.flow.interpolant import expand
from freeflow_lightning.flow.solver import Rule, Velocity, chord_rule, count_evaluations
from freeflow_lightning.objectives.map_objective import MapObjective, find_share
from freeflow_lightning.objectives.residual import Residual, residual


@dataclass(frozen=True)
class Lagrangian(MapObjective):
    r"""Delta_L = F + delta dF/d(delta) - u(f(x, t, s), s), the generating velocity against u.

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

    derivative: Derivative = field(default_factory=ExactJVP)
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

    def active_rows(self, t: Tensor, delta: Tensor) -> Tensor:
        return delta > 0

    @property
    def evaluates_output(self) -> bool:
        return self.full_gradient

    @property
    def uses_dual_numbers(self) -> bool:
        return isinstance(self.derivative, ExactJVP)

    @property
    def closed_at_prior(self) -> bool:
        return True

    @property
    def subtracts_outputs(self) -> bool:
        return not isinstance(self.derivative, ExactJVP)

    @property
    def student_evaluations(self) -> int:
        return self.derivative.evaluations

    @property
    def teacher_evaluations(self) -> int:
        return 1


@dataclass(frozen=True)
class DiscreteLagrangian(MapObjective):
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
        part = torch.where(t > 0, delta / t, 0)
        return self._step(t) * (floor_to_grid(part, self.steps) + 1)

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
        share = find_share(self._step(t), delta)
        delta_start = (1 - share) * delta
        before = F(x, t, delta_start)
        v_g = (output - expand(1 - share, x) * before) / expand(share, x)
        f_start, f_there = flow_map(x, before, delta_start), flow_map(x, output, delta)
        return v_g - chord_rule(self.method)(u, f_start, f_there, t - delta_start, t - delta)

    def active_rows(self, t: Tensor, delta: Tensor) -> Tensor:
        return delta > self._step(t)

    def _step(self, t: Tensor) -> Tensor:
        return t * (1 / self.steps)

    @property
    def closed_at_prior(self) -> bool:
        return True

    @property
    def subtracts_outputs(self) -> bool:
        return True

    @property
    def student_evaluations(self) -> int:
        return 1

    @property
    def teacher_evaluations(self) -> int:
        return count_evaluations(self.method)
