"""TransitionModule: transition matching, few outer steps, each of several of a light head."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, final

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning import objectives
from freeflow_lightning.flow import (
    Pairs,
    TimeDistribution,
    Uniform,
    bridge,
    check_counts,
    check_numbers,
    check_pairs,
    even_starts,
    expand,
    glass_transition,
    renoise,
)
from freeflow_lightning.nets import SplitConditioned, SplitHead
from freeflow_lightning.objectives import (
    Decay,
    DMDWeight,
    Eulerian,
    MapObjective,
    Residual,
    ScoreWeight,
)
from freeflow_lightning.objectives.map_objective import DerivativeForm
from freeflow_lightning.recipes.correction import learn_noising, match_distribution
from freeflow_lightning.recipes.correction_draws import draw_correction
from freeflow_lightning.recipes.draws import pick_times
from freeflow_lightning.recipes.outputs import Step
from freeflow_lightning.recipes.student_checks import refuse_dropout
from freeflow_lightning.recipes.transition_draws import MatchDraw, RolloutDraw
from freeflow_lightning.recipes.turns import TurnTaking
from freeflow_lightning.teachers import Teacher

_OBJECTIVE = Eulerian()
_HEAD = SplitHead()
_R = Uniform(0.02, 0.98)
_S = Uniform(0.02, 1.0)
_WEIGHT = DMDWeight()


@final
class TransitionModule(TurnTaking):
    """Distils a teacher into outer transitions x_t' = x_t + (t - t') Y: TMD (arXiv 2601.09881).

    Y = (x0 - x_t) / t is drawn by a light head on the features of x_t, in N inner steps
    (`SplitConditioned`). First the head's inner map is matched to the teacher's own inner velocity
    (`glass_transition`) at states that the student's samples are noised to: no data, no
    simulation. Then the samples of all outer steps, unrolled through the head, move along the
    correction, as in DMDModule and without its GAN: the student at every `auxiliary_updates`-th
    step, while the auxiliary network learns at each. It is told which of several outer steps a
    sample is of.

    Args:
        teacher: the frozen velocity field.
        network: velocity network (x, t, condition) -> u that student and auxiliary start from; the
            teacher's if not given.
        head: its blocks, its N inner steps, and the M outer steps.
        match_steps: optimizer steps of the first stage; the second takes the rest of the run.
        objective: the identity of the inner map in the first stage.
        diagonal_fraction: share of the first stage's rows that train the diagonal.
        r: law of the correction's time r.
        weight: how much each error of the correction counts.
        auxiliary_updates: updates of the auxiliary network for one of the student in the second
            stage.
        guidance_interval: times r inside which the teacher is guided in the second stage.
        student_lr: learning rate of the student, in units of u.
        auxiliary_lr: of the auxiliary network.
        settings: the others of `Distillation` that are given by keyword.
    """

    advice: ClassVar[Mapping[str, str]] = {
        **TurnTaking.advice,
        "map/residual": "the inner map's residual grows: lower student_lr or clip gradients",
        "correction/residual": "the correction residual grows: lower student_lr or raise "
        "auxiliary_updates",
    }
    progress_names: ClassVar[Mapping[str, str]] = {
        "map/residual": "map",
        "correction/residual": "corr",
    }
    curves: ClassVar[Mapping[str, Sequence[str]]] = {
        "residuals": ("map/residual", "diagonal/residual", "correction/residual"),
        "gradient norms": ("gradient/student", "gradient/auxiliary"),
    }

    head: SplitHead

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None = None,
        head: SplitHead = _HEAD,
        match_steps: int = 3000,
        objective: MapObjective = _OBJECTIVE,
        diagonal_fraction: float = 0.5,
        r: TimeDistribution = _R,
        weight: ScoreWeight = _WEIGHT,
        auxiliary_updates: int = 5,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        student_lr: float = 3e-5,
        auxiliary_lr: float = 1.2e-4,
        **settings: Any,
    ) -> None:
        check_counts(0, match_steps=match_steps)
        check_counts(1, auxiliary_updates=auxiliary_updates)
        check_numbers(
            0, 1, without_low=True, without_high=True, diagonal_fraction=diagonal_fraction
        )
        check_pairs(0, 1, guidance_interval=guidance_interval)
        if not isinstance(objective, DerivativeForm):
            raise ValueError(
                f"{type(objective).__name__} takes steps of the teacher or none: expected an "
                "identity with a derivative, Eulerian or Lagrangian"
            )
        self.has_auxiliary = True
        if head.outer_steps > 1:
            self.auxiliary_scalars = ("gamma", "start")
        self.head = head
        super().__init__(
            teacher, network, student_lr=student_lr, auxiliary_lr=auxiliary_lr, **settings
        )
        if objective.subtracts_outputs:
            refuse_dropout(self.student, objective)
        self.match_steps = match_steps
        self.objective = objective
        self.diagonal_fraction = diagonal_fraction
        self.r = r
        self.weight = weight
        self.auxiliary_updates = auxiliary_updates
        self.guidance_interval = (guidance_interval[0], guidance_interval[1])
        self.map_weight = Decay(0.5, 0.01 / math.prod(teacher.sample_shape))
        self.matches = match_steps > 0
        """Whether this step is one of the first stage; the trainer's step says it in a run."""

    @property
    def pairs(self) -> Pairs:
        return Pairs.TRANSITIONS

    @property
    def starts(self) -> tuple[float, ...]:
        return even_starts(self.head.outer_steps)

    @property
    def times(self) -> list[float]:
        """The outer times, from 1 to 0."""
        return [*self.starts, 0.0]

    @property
    def split(self) -> SplitConditioned:
        """The student."""
        assert isinstance(self.student, SplitConditioned)
        return self.student

    @property
    def steady_steps(self) -> range:
        """A turn of the second stage."""
        turn = self.auxiliary_updates
        first = math.ceil(self.match_steps / turn) * turn
        return range(first, first + turn)

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        self.matches = step < self.match_steps

    @property
    def resting(self) -> nn.Module | None:
        return self.auxiliary if self.matches else super().resting

    def draw(self, size: int, generator: Generator) -> MatchDraw | RolloutDraw:
        draws = self.draws(generator)
        M = self.head.outer_steps
        place = torch.randint(M, (size,), generator=draws.host)
        place = draws.to_device(place)
        if not self.matches:
            rows = draw_correction(self, draws, size, self.r, self.guidance_interval)
            e = draws.noise(M * size).unflatten(0, (M, size))
            return RolloutDraw(rows, place, e)
        z, condition, gamma = draws.prior(size)
        n, e = draws.noise(size), draws.noise(size)
        maps, rest = objectives.split_batch(size, self.diagonal_fraction)
        objective = self.objective.prepare(maps, draws.host)
        s = _S.sample(size, draws.host)
        delta = s[:maps] * Uniform().sample(maps, draws.host)
        delta = torch.cat([delta, torch.zeros(rest)])
        gamma, s, delta = (draws.to_device(each) for each in (gamma, s, delta))
        return MatchDraw(z, n, e, condition, gamma, place, s, delta, maps, objective)

    def loss(self, draw: MatchDraw | RolloutDraw) -> Step:
        if isinstance(draw, MatchDraw):
            return self._match(draw)
        return self._correct(draw)

    # The first stage: the head's inner map

    def _match(self, draw: MatchDraw) -> Step:
        """< W, sg(w Delta) >; where delta = 0 that is the diagonal, Delta = W - b."""
        z, n, e, condition, gamma = draw[:5]
        t = pick_times(self.times[:-1], draw.place)
        with torch.no_grad():
            one = torch.ones_like(t)
            x0 = z + self.average(z, one, torch.zeros_like(t), condition, gamma)
            x = renoise(x0, n, t).to(z.dtype)
            y = renoise(x0 - n, e, draw.s).to(z.dtype)
        features = self.split.features(x, t, condition, gamma)
        u = self.teacher_at(z, condition, gamma)

        def w(y: Tensor, s: Tensor) -> Tensor:
            return glass_transition(u, y, s, x, t)

        def average(y: Tensor, s: Tensor, delta: Tensor) -> Tensor:
            return self.split.inner_velocity(features, y.to(features.tokens.dtype), s, delta)

        residual = draw.objective.residual(average, w, y, draw.s, draw.delta)
        maps = Residual(*(part[: draw.maps] for part in residual))
        residuals = {"map": maps, "diagonal": Residual(*(part[draw.maps :] for part in residual))}
        loss = self.map_weight(residual, draw.delta).surrogate().mean() / self.student_scale
        return Step(loss, residuals)

    # The second stage: the samples of all outer steps

    def _correct(self, draw: RolloutDraw) -> Step:
        """< Y, sg(t w (v_N - u)) > at the student's own states, and see Eq. 12."""
        t = pick_times(self.times[:-1], draw.place)
        rows = draw.rows._replace(z=self._place(draw), t=t)
        e = draw.e[draw.place, torch.arange(len(t), device=t.device)]
        with torch.set_grad_enabled(self.moves_student):
            output = self.split.draw(rows.z, t, rows.condition, rows.gamma, e)
        if not self.moves_student:
            return learn_noising(self, rows, output)
        return match_distribution(self, rows, output, self.guidance_interval, self.weight)

    @torch.no_grad()
    def _place(self, draw: RolloutDraw) -> Tensor:
        """The state that each row starts at, by the student's own transitions from the prior."""
        z, condition, gamma = draw.rows.z, draw.rows.condition, draw.rows.gamma
        x = z
        for k, (t, following) in enumerate(pairwise(self.times[:-1])):
            start, end = torch.full_like(gamma, t), torch.full_like(gamma, following)
            Y = self.split.draw(x, start, condition, gamma, draw.e[k])
            there = bridge(x + t * Y, x, start, end).to(z.dtype)
            x = torch.where(expand(draw.place > k, x), there, x)
        return x

    # What others ask

    def evaluations_per_sample(self) -> dict[str, float]:
        """Of the stage that the step is in; a head counts as its share of the blocks."""
        one = self.split.evaluations
        if not self.matches:
            alone = {"student": self.head.outer_steps * one, "auxiliary": 1.0}
            return self.mean_over_turn(alone | {"teacher": self.branches}, alone)
        head = self.split.head_blocks / self.split.depth
        further = self.objective.student_evaluations * head
        asked = self.branches * self.objective.teacher_evaluations
        return {"student": one + 1 + further, "teacher": asked}
