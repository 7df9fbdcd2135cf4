"""Where the states x_t come from that a map is trained at, what they cost, whether they need data.

With a frozen teacher every identity of a flow map holds at any x. The law of x_t does not move the
optimum; it decides which part of it is learnt. The states of a guided teacher's path are not its
noised data: prefer a path there.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow.checks import check_counts
from freeflow_lightning.flow.flow_map import TwoTimeVelocity, flow_map
from freeflow_lightning.flow.interpolant import expand
from freeflow_lightning.flow.posterior import renoise
from freeflow_lightning.flow.solver import Rule, Velocity, count_evaluations, one_step_rule


class Samples(ABC):
    """A data set that states are drawn from."""

    @abstractmethod
    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """n samples [n, ...] drawn with replacement, and their class labels, int64 [n].

        Both are on the CPU, as the generator is; the labels are None for data without classes.
        """


class States(ABC):
    """A source of x_t."""

    @property
    def needs_data(self) -> bool:
        """Whether samples of a data set take the place of the prior noise z."""
        return False

    @property
    def data(self) -> Samples | None:
        """The data set that x0 is drawn from; None where none is used."""
        return None

    @property
    def only_prior(self) -> bool:
        """Whether every state is noise at t = 1, which the start times have to be then."""
        return False

    @property
    def per_path(self) -> int:
        """Successive rows of t that share one row of z, and so its condition and guidance."""
        return 1

    @property
    def student_evaluations(self) -> float:
        """Evaluations of F per state, without gradient."""
        return 0

    @property
    def teacher_evaluations(self) -> float:
        """Evaluations of u per state; guidance doubles each."""
        return 0

    @property
    def evaluations(self) -> float:
        """Network evaluations per state."""
        return self.student_evaluations + self.teacher_evaluations

    @abstractmethod
    def draw(self, t: Tensor, F: TwoTimeVelocity, u: Velocity, z: Tensor, n: Tensor) -> Tensor:
        """States x_t, [B, ...], constants.

        Args:
            t: their times in [0, 1], [B].
            F: the student's average velocity F(x, t, delta), for B rows.
            u: the teacher's velocity u(x, t), for the rows of z.
            z: prior noise, [B / per_path, ...]; data where `needs_data`.
            n: further N(0, I) noise, [B, ...].
        """


@dataclass(frozen=True)
class Prior(States):
    """x_1 = z: FreeFlow's states, for maps that start at t = 1. No data, no evaluation.

    >>> z = torch.ones(1, 1)
    >>> Prior().draw(torch.ones(1), lambda x, t, delta: x, lambda x, t: x, z, z)
    tensor([[1.]])
    """

    @property
    def only_prior(self) -> bool:
        return True

    def draw(self, t: Tensor, F: TwoTimeVelocity, u: Velocity, z: Tensor, n: Tensor) -> Tensor:
        return z


@dataclass(frozen=True)
class StudentPath(States):
    """x_t = f(z, 1, t): the student's own path. No data, one evaluation of the student.

    Early in training start near the prior, with `Times.move_to_prior`.

    >>> half, z = torch.tensor([0.5]), torch.ones(1, 1)
    >>> StudentPath().draw(half, lambda x, t, delta: -x, lambda x, t: x, z, z)
    tensor([[0.5000]])
    """

    @property
    def student_evaluations(self) -> float:
        return 1

    @torch.no_grad()
    def draw(self, t: Tensor, F: TwoTimeVelocity, u: Velocity, z: Tensor, n: Tensor) -> Tensor:
        return flow_map(z, F(z, torch.ones_like(t), 1 - t), 1 - t)


@dataclass(frozen=True)
class TeacherPath(States):
    """x_t on the teacher's own path from z. No data, `steps` steps for `per_path` states.

    The successive states of one path are taken in falling order of t; each stretch has
    steps / per_path steps. With as many states as steps a state costs one step.

    Args:
        steps: steps of one path.
        method: the one-step rule: "euler", "heun", "midpoint", "rk4" or a callable.
        per_path: states of each path, a divisor of the steps.

    >>> half, z = torch.tensor([0.5]), torch.ones(1, 1)
    >>> TeacherPath(1, "euler").draw(half, lambda x, t, delta: x, lambda x, t: -x, z, z)
    tensor([[0.5000]])
    """

    steps: int = 8
    method: str | Rule = "heun"
    per_path: int = 1

    def __post_init__(self) -> None:
        one_step_rule(self.method)
        check_counts(1, steps=self.steps, per_path=self.per_path)
        if self.steps % self.per_path:
            raise ValueError(
                f"expected steps in equal numbers between {self.per_path} states of a path, "
                f"got {self.steps}: use a multiple of per_path"
            )

    @property
    def teacher_evaluations(self) -> float:
        return self.steps * count_evaluations(self.method) / self.per_path

    @torch.no_grad()
    def draw(self, t: Tensor, F: TwoTimeVelocity, u: Velocity, z: Tensor, n: Tensor) -> Tensor:
        if len(t) != self.per_path * len(z):
            wanted = f"{self.per_path} times for each of {len(z)} paths"
            raise ValueError(f"expected {wanted}, got {len(t)} times")
        falling, order = t.view(len(z), self.per_path).sort(1, descending=True)
        x, now, kept = z, torch.ones_like(falling[:, 0]), []
        for then in falling.unbind(1):
            x = self._integrate(u, x, now, then)
            now = then
            kept.append(x)
        places = order.argsort(1) + self.per_path * torch.arange(len(z), device=t.device)[:, None]
        return torch.stack(kept, 1).flatten(0, 1)[places.flatten()]

    def _integrate(self, u: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Along one stretch of a path, from t to s [B]."""
        rule, steps = one_step_rule(self.method), self.steps // self.per_path
        for i in range(steps):
            start = torch.lerp(t, s, i / steps)
            end = torch.lerp(t, s, (i + 1) / steps)
            x = x + expand(start - end, x) * rule(u, x, start, end)
        return x


class Noised(States):
    """x_t = (1 - t) x0 + t n of some samples x0: a pair (x0, x_t) besides."""

    @abstractmethod
    def endpoint(self, F: TwoTimeVelocity, z: Tensor) -> Tensor:
        """The samples x0, [B, ...], constants; F and z as in `draw`."""

    def draw(self, t: Tensor, F: TwoTimeVelocity, u: Velocity, z: Tensor, n: Tensor) -> Tensor:
        return renoise(self.endpoint(F, z), n, t)


@dataclass(frozen=True)
class Renoised(Noised):
    """x0 = f(z, 1, 0), the student's own sample, noised anew. No data, one evaluation of it.

    >>> half, z = torch.tensor([0.5]), torch.ones(1, 1)
    >>> Renoised().draw(half, lambda x, t, delta: x, lambda x, t: x, z, z)  # x0 = 2, n = 1
    tensor([[1.5000]])
    """

    @property
    def student_evaluations(self) -> float:
        return 1

    @torch.no_grad()
    def endpoint(self, F: TwoTimeVelocity, z: Tensor) -> Tensor:
        one = z.new_ones(len(z), dtype=torch.promote_types(z.dtype, torch.float32))
        return flow_map(z, F(z, one, one), one)


@dataclass(frozen=True)
class DataStates(Noised):
    """x0 of a data set, noised. Needs data, in the place of z; no evaluation.

    Args:
        data: where x0 and its class come from, such as `examples.digits.DigitsSamples`.

    >>> half, x0 = torch.tensor([0.5]), torch.ones(1, 1)
    >>> DataStates().draw(half, lambda x, t, delta: x, lambda x, t: x, x0, 3 * x0)
    tensor([[2.]])
    """

    data: Samples | None = None

    @property
    def needs_data(self) -> bool:
        return True

    def endpoint(self, F: TwoTimeVelocity, z: Tensor) -> Tensor:
        return z
