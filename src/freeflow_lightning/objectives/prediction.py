"""The prediction objective: the student's generating velocity meets the teacher's on its own
path.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from freeflow_lightning.flow.checks import check_counts
from freeflow_lightning.flow.derivative import Derivative, ExactJVP
from freeflow_lightning.flow.distributions import grid_step
from freeflow_lightning.flow.flow_map import AverageVelocity, flow_map
from freeflow_lightning.flow.interpolant import expand, to_noisier
from freeflow_lightning.flow.solver import Rule, Velocity, chord_rule, count_evaluations
from freeflow_lightning.objectives.residual import Residual, residual


class Prediction(ABC):
    """One form of the prediction: where the output carries the gradient, and its error v_G - u.

    See Eq. 9."""

    @abstractmethod
    def output_delta(self, delta: Tensor) -> Tensor:
        """The duration at which the output that carries the gradient is evaluated, [B]."""

    @abstractmethod
    def error(
        self, F: AverageVelocity, output: Tensor, u: Velocity, z: Tensor, delta: Tensor
    ) -> Tensor:
        """Delta_G = v_G - u [B, ...], given the output F(z, output_delta(delta)); `F` is called
        without gradient.
        """

    @abstractmethod
    def active_rows(self, delta: Tensor) -> Tensor:
        """Where the evaluations of F in `error` have an effect, bool [B]: not where the path is
        still at z and delta F is 0.
        """

    @property
    @abstractmethod
    def subtracts_outputs(self) -> bool:
        """Whether v_G holds a difference of two evaluations of F, which noise inside the network
        (dropout) would corrupt.
        """

    @property
    @abstractmethod
    def student_evaluations(self) -> int:
        """Evaluations of F per sample beside the one that carries the gradient, at most: see
        `active_rows`.
        """

    @property
    @abstractmethod
    def teacher_evaluations(self) -> int:
        """Evaluations of u per sample; guidance doubles each."""


@dataclass(frozen=True)
class ContinuousPrediction(Prediction):
    r"""v_G = F + delta dF/d(delta) against u(f(z, delta), 1 - delta) (Eqs. 7, 8, 13).

    $$F(z, \delta) + \delta \frac{\partial F}{\partial \delta}(z, \delta)
      = u(f(z, \delta), 1 - \delta)$$

    Args:
        derivative: ExactJVP, CentralDifference or ForwardDifference.
    """

    derivative: Derivative = field(default_factory=ExactJVP)

    def output_delta(self, delta: Tensor) -> Tensor:
        return delta

    @torch.no_grad()
    def error(
        self, F: AverageVelocity, output: Tensor, u: Velocity, z: Tensor, delta: Tensor
    ) -> Tensor:
        v_g = output + expand(delta, z) * self.derivative(F, z, delta, output)
        return v_g - u(flow_map(z, output, delta), 1 - delta)

    def active_rows(self, delta: Tensor) -> Tensor:
        return delta > 0

    @property
    def subtracts_outputs(self) -> bool:
        return not isinstance(self.derivative, ExactJVP)

    @property
    def student_evaluations(self) -> int:
        return 2

    @property
    def teacher_evaluations(self) -> int:
        return 1


@dataclass(frozen=True)
class DiscretePrediction(Prediction):
    r"""v_G = (f_{i+1} - f_i) / h against the teacher's mean velocity over that step (Eqs. 14, 15).

    $$\frac{f(z, \delta_{i+1}) - f(z, \delta_i)}{h}
      = \bar u(f(z, \delta_i), 1 - \delta_i, 1 - \delta_{i+1}), \quad h = 1 / N$$

    The grid is uniform; the teacher's step starts from f_i.

    Args:
        steps: N, the steps of the grid (Table 6: 8). bfloat16's rounding of f is divided by 1 / N:
            4 % of u at 8, 15 % at 32 (tools/precision_table.py).
        method: the one-step rule of u: "heun" (Table 6), "euler", "midpoint", "rk4" or a callable;
            "implicit_midpoint" asks u once, at the middle of the student's own step: v_G - u((f_i +
            f_{i+1}) / 2, (t_i + t_{i+1}) / 2).
    """

    steps: int = 8
    method: str | Rule = "heun"

    def __post_init__(self) -> None:
        chord_rule(self.method)
        check_counts(1, steps=self.steps)

    def output_delta(self, delta: Tensor) -> Tensor:
        return grid_step(delta, self.steps).end

    @torch.no_grad()
    def error(
        self, F: AverageVelocity, output: Tensor, u: Velocity, z: Tensor, delta: Tensor
    ) -> Tensor:
        delta_i, delta_next, _ = grid_step(delta, self.steps)
        f_i = flow_map(z, F(z, delta_i), delta_i)
        f_next = flow_map(z, output, delta_next)
        v_g = (f_next - f_i) / expand(delta_next - delta_i, z)
        return v_g - chord_rule(self.method)(u, f_i, f_next, 1 - delta_i, 1 - delta_next)

    def active_rows(self, delta: Tensor) -> Tensor:
        return ~grid_step(delta, self.steps).is_first

    @property
    def subtracts_outputs(self) -> bool:
        return True

    @property
    def student_evaluations(self) -> int:
        return 1

    @property
    def teacher_evaluations(self) -> int:
        return count_evaluations(self.method)


def prediction(
    F: AverageVelocity,
    u: Velocity,
    z: Tensor,
    delta: Tensor,
    *,
    form: Prediction | None = None,
    output: Tensor | None = None,
) -> Residual:
    r"""The prediction residual (Eq. 9): the student's output and Delta_G = v_G - u.

    $$\nabla_\theta\, \mathbb{E}_{z, \delta} \left[ F_\theta(z, \delta)^\top \mathrm{sg}(
      v_G(f(z, \delta), 1 - \delta) - u(f(z, \delta), 1 - \delta)) \right]$$

    Args:
        F: the student's average velocity F(z, delta).
        u: the teacher's velocity u(x, t), guided or not.
        z: prior noise, [B, ...].
        delta: durations in [0, 1], [B].
        form: DiscretePrediction (the default, N = 8 and Heun) or ContinuousPrediction.
        output: F(z, form.output_delta(delta)) where the caller has it already, from a larger batch
            for example.

    >>> z = torch.ones(1, 1)  # the exact flow map of u = -x is f = exp(-delta) z
    >>> F = lambda z, delta: z * torch.expm1(-delta)[:, None] / delta[:, None]
    >>> prediction(F, lambda x, t: -x, z, torch.tensor([0.5]), form=ContinuousPrediction()).norm() < 1e-6
    tensor([True])
    """
    form = DiscretePrediction() if form is None else form
    output = F(z, form.output_delta(delta)) if output is None else output
    return residual(output, form.error(F, output.detach(), u, z, delta))


def in_confident_region(u: Velocity, n: Tensor, t_c: float) -> Velocity:
    """u as the confident-region warmup asks it: at I_{tc|t}(x, n) and t_c wherever t < t_c (App.
    A.1).

    Args:
        u: the teacher's velocity.
        n: N(0, I) noise shaped as the states.
        t_c: the confident time in [0, 1]; 0 asks u where it is.
    """
    if t_c <= 0:
        return u
    return lambda x, t: u(*to_noisier(x, n, t, torch.full_like(t, t_c)))
