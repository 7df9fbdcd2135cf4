"""DMDModule: the correction alone, with several auxiliary updates for each of the student's."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning.flow import (
    Pairs,
    TimeDistribution,
    Uniform,
    check_counts,
    check_pairs,
    check_starts,
    expand,
    flow_map,
    on_rows,
    renoise,
)
from freeflow_lightning.objectives import DMDWeight, ScoreWeight
from freeflow_lightning.recipes.correction import (
    auxiliary_figures,
    learn_noising,
    match_distribution,
)
from freeflow_lightning.recipes.correction_draws import CorrectionDraw, draw_correction, map_to_data
from freeflow_lightning.recipes.draws import pick_times, select_rows
from freeflow_lightning.recipes.outputs import AuxiliaryTraining, Step
from freeflow_lightning.recipes.turns import TurnTaking
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.step_metrics import mean_by_bin, root_mean_square


class DMDDraw(NamedTuple):
    """Everything random in one step.

    Args:
        rows: prior noise and what noises the samples.
        place: the index of each row's start time in `times`, int64 [B].
        renoise: what noises the student's samples on the way there, [len(times) - 1, B, ...].
        further: for each of these ways the rows that go it, None for all.
    """

    rows: CorrectionDraw
    place: Tensor
    renoise: Tensor
    further: tuple[Tensor | None, ...]


_R = Uniform(0.02, 0.98)
_WEIGHT = DMDWeight()


@final
class DMDModule(TurnTaking):
    """Distils by the correction alone: DMD (arXiv 2311.18828), DMD2 (2405.14867) without its GAN.

    The student's samples x0 = x + t F(x, t, 0) are noised to x_r, and move along
    w (v_N(x_r, r) - u(x_r, r)), times t in units of F. The auxiliary network learns v_N at every
    step, and the student moves at every `auxiliary_updates`-th: with equal rates and one update
    each it diverges.

    A student of several steps starts at `times`, from states of its own: each row's start time is
    drawn, and the student is run with re-noising from the prior to there. No state is noised data.
    The auxiliary network is told the start time, so that the samples of each start are matched
    alone; one that is not lets them make up for each other, and none of them is right.

    Args:
        teacher: the frozen velocity field.
        network: velocity network (x, t, condition) -> u that student and auxiliary start from; the
            teacher's if not given.
        times: start times of the student's steps, falling from 1; [1.0] is one step,
            [1.0, 0.75, 0.5, 0.25] four.
        r: law of r.
        weight: w, how much each error counts.
        auxiliary_updates: updates of the auxiliary network for one of the student.
        guidance_interval: times r inside which the teacher is guided; the auxiliary never is.
        student_lr: learning rate of the student, in units of u.
        auxiliary_lr: learning rate of the auxiliary network.
        betas: Adam's.
        settings: the others of `Distillation` that are given by keyword.

    Raises:
        ValueError: times that do not fall from 1.
    """

    advice: ClassVar[Mapping[str, str]] = {
        **TurnTaking.advice,
        "correction/residual": "the correction residual grows: lower student_lr or raise "
        "auxiliary_updates",
        "auxiliary/loss": "the auxiliary network falls behind the student: raise auxiliary_lr or "
        "auxiliary_updates, or lower student_lr",
    }
    spread_advice = "stop here, narrow guidance_interval, or train with a FlowMapModule beside"
    progress_names: ClassVar[Mapping[str, str]] = {
        "correction/residual": "corr",
        "auxiliary/loss": "aux",
    }
    curves: ClassVar[Mapping[str, Sequence[str]]] = {
        "residuals": ("correction/residual", "auxiliary/loss"),
        "gradient norms": ("gradient/student", "gradient/auxiliary"),
    }

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None = None,
        times: Sequence[float] = (1.0,),
        r: TimeDistribution = _R,
        weight: ScoreWeight = _WEIGHT,
        auxiliary_updates: int = 5,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        student_lr: float = 2e-6,
        auxiliary_lr: float = 2e-6,
        betas: Sequence[float] = (0.9, 0.999),
        **settings: Any,
    ) -> None:
        check_starts(times)
        check_pairs(0, 1, guidance_interval=guidance_interval)
        check_counts(1, auxiliary_updates=auxiliary_updates)
        self.has_auxiliary = True
        if len(times) > 1:
            self.auxiliary_scalars = ("gamma", "start")
        super().__init__(
            teacher,
            network,
            student_lr=student_lr,
            auxiliary_lr=auxiliary_lr,
            betas=betas,
            **settings,
        )
        self.times = tuple(times)
        self.r = r
        self.weight = weight
        self.auxiliary_updates = auxiliary_updates
        self.guidance_interval = (guidance_interval[0], guidance_interval[1])

    @property
    def pairs(self) -> Pairs:
        return Pairs.PRIOR_TO_DATA if len(self.times) == 1 else Pairs.ANY_TO_DATA

    @property
    def starts(self) -> tuple[float, ...]:
        return self.times

    # One step

    def draw(self, size: int, generator: Generator) -> DMDDraw:
        draws = self.draws(generator)
        rows = draw_correction(self, draws, size, self.r, self.guidance_interval)
        ways = len(self.times) - 1
        place = torch.randint(ways + 1, (size,), generator=draws.host)
        noise = draws.noise(ways * size).unflatten(0, (ways, size))
        further: list[Tensor | None] = [None] * ways
        if self.skip_idle_rows:  # one row at least on every process: FSDP gathers weights
            for k in range(ways):
                further[k] = select_rows(place > k, generator.device, least=1)
        return DMDDraw(rows, draws.to_device(place), noise, tuple(further))

    def loss(self, draw: DMDDraw) -> Step:
        """< F, sg(t w (v_N - u)) > where the student moves, and see Eq. 12 at every step."""
        t = pick_times(self.times, draw.place)
        rows = draw.rows._replace(z=self._place(draw), t=t)
        if not self.moves_student:
            return learn_noising(self, rows, map_to_data(self, rows))

        output = self.student(rows.z, t, rows.condition, delta=t, gamma=rows.gamma)
        return match_distribution(self, rows, output, self.guidance_interval, self.weight)

    @torch.no_grad()
    def _place(self, draw: DMDDraw) -> Tensor:
        """Return the state that each row starts at: the student's own chain from the prior,
        re-noised.
        """
        z, condition, gamma = draw.rows.z, draw.rows.condition, draw.rows.gamma
        x = z
        for k, (t, following) in enumerate(pairwise(self.times)):
            student = on_rows(self._sample_from, draw.further[k])
            start = torch.full_like(gamma, t)
            end = torch.full_like(gamma, following)
            there = renoise(student(x, start, condition, gamma), draw.renoise[k], end)
            x = torch.where(expand(draw.place > k, x), there.to(z.dtype), x)
        return x

    def _sample_from(self, x: Tensor, t: Tensor, condition: Any, gamma: Tensor) -> Tensor:
        """x0 = f(x, t, 0)."""
        return flow_map(x, self.average(x, t, torch.zeros_like(t), condition, gamma), t)

    # What others ask

    def evaluations_per_sample(self) -> dict[str, float]:
        """Network evaluations that one training sample costs, by network, in the mean over a turn.

        With skip_idle_rows the rows without effect cost less than this.
        """
        alone = {"student": len(self.times), "auxiliary": 1.0}
        return self.mean_over_turn(alone | {"teacher": self.branches}, alone)

    def figures(self, draw: DMDDraw, step: Step) -> dict[str, Tensor | float]:
        figures = auxiliary_figures(step)
        if "correction" in step.residuals:
            rms = root_mean_square(step.residuals["correction"])
            figures["correction/residual"] = rms.mean()
            figures |= mean_by_bin("correction/residual_by_r", rms, draw.rows.r)
        return figures

    @property
    def auxiliary_training(self) -> AuxiliaryTraining | None:
        if len(self.times) > 1:  # it is asked with a start too, and learns all of them
            return None
        return AuxiliaryTraining(self.r, self.guidance_interval, self.auxiliary_lr)
