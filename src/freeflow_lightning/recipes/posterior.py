"""PosteriorModule: Meta Flow Maps, a map to draws of p(x0 | x_t) for every state x_t."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning import objectives
from freeflow_lightning.flow import (
    Noised,
    Pairs,
    Renoised,
    SortedPair,
    TimeDistribution,
    TimePair,
    TowardsPrior,
    TwoTimeVelocity,
    Uniform,
    Velocity,
    WithAtom,
    check_numbers,
    glass,
    renoise,
)
from freeflow_lightning.nets import SecondState
from freeflow_lightning.objectives import Decay, Eulerian, MapObjective, Residual, Weight
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.map_settings import check_inner_map
from freeflow_lightning.recipes.outputs import Step
from freeflow_lightning.recipes.posterior_rows import PosteriorDraw, PosteriorRows
from freeflow_lightning.recipes.student_checks import check_time_step, refuse_dropout
from freeflow_lightning.recipes.tilt import Tilt
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.step_metrics import mean_by_bin, root_mean_square

_OBJECTIVE = Eulerian()
_STATES = Renoised()
_T = WithAtom(TowardsPrior(2.0), 0.1, at=1.0)
_INNER = SortedPair(Uniform())
_SECOND = SecondState()
_FEW = 64  # numbers in a sample, below which p = 1 starves the large errors of one-step draws


@final
class PosteriorModule(Distillation):
    """Distils a teacher, without data, into draws of p(x0 | x_t): a Meta Flow Map (2601.14430).

    The student V(y, s, r; x_t, t) is the average velocity of the flow from noise y_1 to a draw y_0
    of the posterior of a noised state; its teacher is `glass`, one call of the velocity. At t = 1
    it is an ordinary flow map, and every verb takes it as one. The gradient is that of
    < V, sg(w Delta) > on maps and of < V(y, s, s), sg(w (V - b)) > on the diagonal.

    A guided velocity gives a flow too, but to no posterior of anything.

    Args:
        teacher: the frozen velocity field.
        network: velocity network (x, t, condition) -> u that the student starts from; the teacher's
            if not given.
        objective: the identity of the inner map that is trained; the published one is Eulerian.
        states: where x0 comes from: the student's own one-step samples (Renoised), or data.
        t: law of the states' times; the published one if not given.
        times: law of the inner times s and r.
        weight: how much each error of the map counts; if not given the published Decay(1), or
            Decay(0.5) for samples of fewer than 64 numbers, where 1 starves large errors.
        diagonal_weight: the same on the diagonal; the published Decay(0.5) if not given.
        diagonal_fraction: share of the rows that train the diagonal.
        second_state: how the state x_t enters the backbone.
        tilt: a reward that the law is tilted by, for a student that is trained already (resume its
            run with this): the diagonal regresses to rewarded draws of the teacher's posteriors,
            and the map follows the diagonal.
        settings: those of Distillation.

    Raises:
        ValueError: settings that cannot train the map.
    """

    advice: ClassVar[Mapping[str, str]] = {
        **Distillation.advice,
        "map/residual": "the inner map's residual grows: lower student_lr or clip gradients",
    }
    progress_names: ClassVar[Mapping[str, str]] = {
        "map/residual": "map",
        "diagonal/residual": "diag",
    }
    curves: ClassVar[Mapping[str, Sequence[str]]] = {
        "residuals": ("map/residual", "diagonal/residual"),
        "gradient norms": ("gradient/student",),
    }

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None = None,
        objective: MapObjective = _OBJECTIVE,
        states: Noised = _STATES,
        t: TimeDistribution = _T,
        times: TimePair = _INNER,
        weight: Weight | None = None,
        diagonal_weight: Weight | None = None,
        diagonal_fraction: float = 0.5,
        second_state: SecondState = _SECOND,
        tilt: Tilt | None = None,
        **settings: Any,
    ) -> None:
        check_numbers(0, 1, without_high=True, diagonal_fraction=diagonal_fraction)
        check_inner_map(objective, times, diagonal_fraction)
        self.second_state = second_state
        super().__init__(teacher, network, **settings)
        if objective.subtracts_outputs:
            refuse_dropout(self.student, objective)
        if objective.time_step and not self.meta_init:
            check_time_step(self.student, teacher, objective.time_step)
        d = math.prod(teacher.sample_shape)
        self.objective = objective
        self.states = states
        self.t = t
        self.times = times
        self.weight = weight or Decay(1.0 if d >= _FEW else 0.5, 0.01 / d)
        self.diagonal_weight = diagonal_weight or Decay(0.5, 0.01 / d)
        self.diagonal_fraction = diagonal_fraction
        self.tilt = tilt
        if tilt is not None and not diagonal_fraction:
            raise ValueError("a tilt is learnt on the diagonal: set diagonal_fraction above 0")

    @property
    def pairs(self) -> Pairs:
        """Of the inner times, at t = 1 those of an ordinary flow map."""
        return Pairs.POSTERIORS_TO_DATA if self.times.to_data else Pairs.POSTERIORS

    @property
    def starts(self) -> tuple[float, ...] | None:
        return self.times.starts

    # One step

    def draw(self, size: int, generator: Generator) -> PosteriorDraw:
        draws = self.draws(generator)
        z, condition = draws.starts(self.states.data, size)
        gamma = draws.guidance(size)
        n, e = draws.noise(size), draws.noise(size)
        maps, rest = objectives.split_batch(size, self.diagonal_fraction)
        objective = self.objective.prepare(maps, draws.host)
        t = self.t.sample(size, draws.host)
        s, delta = self.times.sample(maps, draws.host)
        s = torch.cat([s, Uniform().sample(rest, draws.host)])
        delta = torch.cat([delta, torch.zeros(rest)])
        gamma, t, s, delta = (draws.to_device(each) for each in (gamma, t, s, delta))
        inner = None if self.tilt is None else draws.noise(rest)
        return PosteriorDraw(z, n, e, condition, gamma, t, s, delta, maps, objective, inner)

    def loss(self, draw: PosteriorDraw) -> Step:
        rows = self._place(draw)
        maps, diagonal = rows.cut(0, draw.maps), rows.cut(draw.maps)
        attached = draw.maps if draw.objective.evaluates_output else 0
        output = self._student(rows.cut(attached))
        of_map, of_diagonal = output.split([draw.maps - attached, len(diagonal.s)])

        V, b = self._inner(maps)
        given = None if draw.objective.evaluates_output else of_map
        error = draw.objective.residual(V, b, maps.y, maps.s, maps.delta, output=given)
        residuals = {"map": error}
        weighted = [self.weight(error, maps.delta)]
        if len(diagonal.s):
            residuals["diagonal"] = self._diagonal(diagonal, of_diagonal, draw.inner)
            weighted.append(self._weigh_diagonal(residuals["diagonal"], diagonal.delta))
        loss = torch.cat([each.surrogate() for each in weighted]).mean()
        return Step(loss / self.student_scale, residuals)

    def _diagonal(self, rows: PosteriorRows, output: Tensor, inner: Tensor | None) -> Residual:
        """V(y, s, s) and V - b; with a tilt its rewarded error."""
        if self.tilt is None:
            V, b = self._inner(rows)
            return objectives.anchor(V, b, rows.y, rows.s, output=output)
        assert inner is not None
        u = self.teacher_at(rows.y, rows.condition, rows.gamma)
        states = rows.y, rows.s, rows.x, rows.t
        return self.tilt.residual(output, u, inner, *states, rows.condition)

    def _weigh_diagonal(self, error: Residual, delta: Tensor) -> Residual:
        """Return the diagonal's weight; none with a tilt, whose errors vanish in the mean alone."""
        return self.diagonal_weight(error, delta) if self.tilt is None else error

    @torch.no_grad()
    def _place(self, draw: PosteriorDraw) -> PosteriorRows:
        """States x_t and inner states y_s, two noised copies of one sample x0."""
        z, condition, gamma = draw.z, draw.condition, draw.gamma
        x0 = self.states.endpoint(self.student_at(z, condition, gamma), z)
        x = renoise(x0, draw.n, draw.t).to(z.dtype)
        y = renoise(x0, draw.e, draw.s).to(z.dtype)
        return PosteriorRows(y, draw.s, draw.delta, x, draw.t, condition, gamma)

    def _student(self, rows: PosteriorRows) -> Tensor:
        """V(y, s, s - delta; x_t, t) with its gradient."""
        return self.student(
            rows.y,
            rows.s,
            rows.condition,
            state=rows.x,
            t_state=rows.t,
            delta=rows.delta,
            gamma=rows.gamma,
        )

    def _inner(self, rows: PosteriorRows) -> tuple[TwoTimeVelocity, Velocity]:
        """V(y, s, delta) and b(y, s) at the rows' states; with a tilt the student's own."""
        u = self.teacher_at(rows.y, rows.condition, rows.gamma)

        def average(y: Tensor, s: Tensor, delta: Tensor) -> Tensor:
            return self._student(rows._replace(y=y.to(rows.y.dtype), s=s, delta=delta))

        if self.tilt is not None:
            return average, lambda y, s: average(y, s, torch.zeros_like(s))
        return average, lambda y, s: glass(u, y, s, rows.x, rows.t)

    # What others ask

    def evaluations_per_sample(self) -> dict[str, float]:
        maps = 1 - self.diagonal_fraction
        if self.tilt is not None:
            map_evaluations = (
                self.objective.student_evaluations + self.objective.teacher_evaluations
            )
            return {
                "student": 1 + self.states.student_evaluations + maps * map_evaluations,
                "teacher": self.branches * self.tilt.teacher_evaluations * (1 - maps),
            }
        return {
            "student": 1
            + self.states.student_evaluations
            + maps * self.objective.student_evaluations,
            "teacher": self.branches * (maps * self.objective.teacher_evaluations + 1 - maps),
        }

    def figures(self, draw: PosteriorDraw, step: Step) -> dict[str, Tensor | float]:
        figures = super().figures(draw, step)
        rms = root_mean_square(step.residuals["map"])
        return figures | mean_by_bin("map/residual_by_t", rms, draw.t[: draw.maps])
