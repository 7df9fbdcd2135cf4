"""The endpoint form: the end of the teacher's own path is the target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from freeflow_lightning.flow.checks import check_counts
from freeflow_lightning.flow.flow_map import TwoTimeVelocity
from freeflow_lightning.flow.interpolant import expand
from freeflow_lightning.flow.solver import Rule, Velocity, count_evaluations, one_step_rule
from freeflow_lightning.objectives.map_objective import MapObjective


@dataclass(frozen=True)
class Endpoint(MapObjective):
    r"""F - (x_s - x) / (t - s), x_s the end of K steps of the teacher's ODE from x at t to s.

    $$F(x, t, \delta) = \frac{\phi(x, t, s) - x}{t - s}$$

    Knowledge distillation (arXiv 2101.02388), there from the prior to data. F meets the mean of the
    steps' velocities, which is u itself at s = t.

    Args:
        steps: K, equal steps from t to s.
        method: the one-step rule of u: "rk4", "heun", "euler", "midpoint" or a callable.

    >>> one, half = torch.ones(1, 1), torch.tensor([0.5])
    >>> Endpoint(2, "euler").error(
    ...     lambda x, t, delta: x, 0 * one, lambda x, t: -x, one, half, half
    ... )  # 1, 0.75, 0.5625
    tensor([[0.8750]])
    """

    steps: int = 16
    method: str | Rule = "rk4"

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
        rule, total = one_step_rule(self.method), torch.zeros_like(output)
        for i in range(self.steps):
            start = t - delta * (i / self.steps)
            end = t - delta * ((i + 1) / self.steps)
            v = rule(u, x, start, end)
            x = x + expand(delta / self.steps, x) * v
            total = total + v
        return output - total / self.steps

    def active_rows(self, t: Tensor, delta: Tensor) -> Tensor:
        return torch.zeros_like(delta, dtype=torch.bool)

    @property
    def closed_at_prior(self) -> bool:
        return True

    @property
    def subtracts_outputs(self) -> bool:
        return False

    @property
    def student_evaluations(self) -> int:
        return 0

    @property
    def teacher_evaluations(self) -> int:
        return self.steps * count_evaluations(self.method)
