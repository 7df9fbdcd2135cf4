"""What every objective of a two-time map F(x, t, delta) shares, and the anchor on its diagonal.

F is the average velocity of the flow from t to s = t - delta: f(x, t, s) = x + (t - s) F. With a
frozen teacher u each error here is 0 at its exact map at every x, whatever the law of the states.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow.derivative import Derivative, ExactJVP
from freeflow_lightning.flow.flow_map import TwoTimeVelocity
from freeflow_lightning.flow.solver import Rule, Velocity, count_evaluations
from freeflow_lightning.objectives.residual import Residual, residual


class MapObjective(ABC):
    """One identity of the flow map, written as an error of F that is 0 where it holds."""

    @abstractmethod
    def error(
        self,
        F: TwoTimeVelocity,
        output: Tensor,
        u: Velocity,
        x: Tensor,
        t: Tensor,
        delta: Tensor,
    ) -> Tensor:
        """Delta [B, ...], a constant.

        Args:
            F: the student's average velocity F(x, t, delta), called without gradient.
            output: F at (x, t, delta) where the caller has it, [B, ...].
            u: the teacher's velocity u(x, t), guided or not.
            x: states at t, [B, ...].
            t: start times in [0, 1], [B].
            delta: durations in [0, t], [B].
        """

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
        """The output that carries the gradient, F(x, t, delta) if not given, and its error."""
        output = F(x, t, delta) if output is None else output
        return residual(output, self.error(F, output.detach(), u, x, t, delta))

    def output_delta(self, t: Tensor, delta: Tensor) -> Tensor:
        """The duration nearest to `delta` at which the form has an error, [B]."""
        return delta

    def prepare(self, n: int, generator: Generator) -> "MapObjective":
        """The form with what it draws at random for n rows; itself if that is nothing."""
        return self

    def warm_up(self, share: float) -> "MapObjective":
        """The form with this share of its tangent in [0, 1]; itself where it has none."""
        return self

    def active_rows(self, t: Tensor, delta: Tensor) -> Tensor:
        """Where the evaluations of F in `error` have an effect, bool [B]; elsewhere F may be 0.

        `delta` is a duration as it is drawn, before `output_delta`.
        """
        return torch.ones_like(delta, dtype=torch.bool)

    @property
    def evaluates_output(self) -> bool:
        """Whether `residual` takes no output, but evaluates the one with the gradient itself."""
        return False

    @property
    def uses_dual_numbers(self) -> bool:
        """Whether F is differentiated in forward mode, which sharded networks do not pass."""
        return False

    @property
    def needs_anchor(self) -> bool:
        """Whether u is not in the error, so that `anchor` rows have to bring it."""
        return False

    @property
    def closed_at_prior(self) -> bool:
        """Whether states at t = 1 alone determine the map from there: F is asked nowhere else."""
        return False

    @property
    def differentiates_time(self) -> bool:
        """Whether t moves under a derivative: no difference of a network that embeds 1000 t."""
        return False

    @property
    def time_step(self) -> float:
        """How far t moves in a difference of two outputs; 0 where it moves in none."""
        return 0.0

    @property
    @abstractmethod
    def subtracts_outputs(self) -> bool:
        """Whether the error holds a difference of two evaluations of F, which dropout corrupts."""

    @property
    @abstractmethod
    def student_evaluations(self) -> int:
        """Evaluations of F per sample beside the one that carries the gradient, at most."""

    @property
    @abstractmethod
    def teacher_evaluations(self) -> int:
        """Evaluations of u per sample; guidance doubles each."""


@dataclass(frozen=True)
class DerivativeForm(MapObjective):
    """A form that differentiates the student along a line, and asks the teacher once.

    Where delta = 0 the derivative has no effect.

    Args:
        derivative: ExactJVP, CentralDifference or ForwardDifference.
    """

    derivative: Derivative = field(default_factory=ExactJVP)

    def active_rows(self, t: Tensor, delta: Tensor) -> Tensor:
        return delta > 0

    @property
    def uses_dual_numbers(self) -> bool:
        return isinstance(self.derivative, ExactJVP)

    @property
    def subtracts_outputs(self) -> bool:
        return not self.uses_dual_numbers

    @property
    def student_evaluations(self) -> int:
        return self.derivative.evaluations

    @property
    def teacher_evaluations(self) -> int:
        return 1


class StepForm(MapObjective):
    """A form that holds one step of the teacher against another output of the student."""

    method: str | Rule
    """The step's rule: a name or a callable."""

    @property
    def subtracts_outputs(self) -> bool:
        return True

    @property
    def student_evaluations(self) -> int:
        return 1

    @property
    def teacher_evaluations(self) -> int:
        return count_evaluations(self.method)


def find_share(step: Tensor, delta: Tensor) -> Tensor:
    """The share of a way of length delta that a step takes: step / delta, 1 where it ends the way.

    >>> find_share(torch.tensor([0.25, 0.25, 0.0]), torch.tensor([0.5, 0.125, 0.0]))
    tensor([0.5000, 1.0000, 1.0000])
    """
    return torch.where(delta > step, step / delta, 1)


def anchor(
    F: TwoTimeVelocity,
    u: Velocity,
    x: Tensor,
    t: Tensor,
    *,
    output: Tensor | None = None,
) -> Residual:
    """F(x, t, 0) and F(x, t, 0) - u(x, t): the diagonal, where every map is the velocity itself.

    Args:
        F: the student's average velocity F(x, t, delta).
        u: the teacher's velocity u(x, t).
        x: states at t, [B, ...].
        t: times in [0, 1], [B].
        output: F(x, t, 0) where the caller has it already.

    >>> anchor(lambda x, t, delta: x, lambda x, t: -x, torch.ones(1, 1), torch.ones(1)).error
    tensor([[2.]])
    """
    output = F(x, t, torch.zeros_like(t)) if output is None else output
    with torch.no_grad():
        return residual(output, output - u(x, t))
