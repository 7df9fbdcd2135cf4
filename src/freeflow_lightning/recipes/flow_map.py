"""FlowMapModule: every method that trains a map F(x, t, s), each a choice of settings."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Generator, Tensor, nn

from freeflow_lightning import objectives
from freeflow_lightning.flow import (
    LogitNormal,
    Pairs,
    PartOfPath,
    States,
    StudentPath,
    TimePair,
    Uniform,
    WithAtom,
    check_numbers,
)
from freeflow_lightning.objectives import Decay, DiscreteLagrangian, MapObjective, Residual, Weight
from freeflow_lightning.recipes.correction import (
    Correction,
    auxiliary_figures,
    correct,
    correction_figures,
    equalise_over_r,
    learn_noising,
)
from freeflow_lightning.recipes.correction_draws import (
    CorrectionDraw,
    draw_correction,
    draw_starts,
    map_to_data,
    place_starts,
)
from freeflow_lightning.recipes.draws import Draws, select_rows
from freeflow_lightning.recipes.map_draws import (
    FlowMapDraw,
    MapDraw,
    MapRows,
    ask_student,
    map_figures,
    place_maps,
)
from freeflow_lightning.recipes.map_settings import (
    check_differences,
    check_settings,
    check_sharding,
    count_paths,
)
from freeflow_lightning.recipes.outputs import AuxiliaryTraining, Step
from freeflow_lightning.recipes.turns import TurnTaking
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.step_metrics import root_mean_square

_OBJECTIVE = DiscreteLagrangian(steps=8, method="implicit_midpoint")
_STATES = StudentPath()
_TIMES = PartOfPath(
    WithAtom(Uniform(0.05, 1.0), 0.5, at=1.0),
    WithAtom(LogitNormal(0.0, 1.0), 0.1),
)
_WEIGHT = Decay(1.0)


@final
class FlowMapModule(TurnTaking):
    """Distils a teacher, without data, into a map between any two times: one to eight steps.

    The gradient is that of < F(x_t, t, s), sg(w Delta) >. The methods are settings:

    - any-step FreeFlow (the defaults): DiscreteLagrangian, StudentPath, PartOfPath, a Correction
    - MeanFlow: Eulerian, StudentPath or TeacherPath, WithDiagonal(SortedPair())
    - AYF-EMD: Eulerian(tangent=0.99), TeacherPath, ByDuration(Normalise()); AYF-LMD and LSD:
      Lagrangian; TVM: Lagrangian(full_gradient=True), Gap()
    - AlphaFlow: DiscreteEulerian; PSD and shortcut models: Semigroup with an anchor
    - consistency: Consistency, or Eulerian (sCD), ToData
    - knowledge distillation: Endpoint, Prior, FromPrior

    Args:
        teacher: the frozen velocity field.
        network: velocity network (x, t, condition) -> u that student and auxiliary start from; the
            teacher's if not given.
        objective: the identity of the map that is trained.
        states: where x_t comes from.
        times: law of t and s. With ConfidentRegionWarmup both start near the prior, in [t_c, 1].
        weight: how much each error counts.
        anchor_fraction: share of the map's rows that train F(x, t, t) = u(x, t) instead.
        correction: settings of Eqs. 11-12 for the maps to s = 0, from the prior or from later
            points too; none if not given.
        settings: those of `Distillation` that are given by keyword.

    Raises:
        ValueError: settings that cannot train the map, each with what to use instead.
    """

    advice: ClassVar[Mapping[str, str]] = {
        **TurnTaking.advice,
        "map/residual": "the map's residual grows: lower student_lr, clip gradients, or lengthen "
        "ConfidentRegionWarmup",
        "correction/residual": "the correction residual grows: lower alpha_ref or student_lr",
        "auxiliary/loss": "the auxiliary network falls behind the student: raise auxiliary_lr or "
        "lower student_lr",
    }
    progress_names: ClassVar[Mapping[str, str]] = {
        "map/residual": "map",
        "correction/residual": "corr",
        "auxiliary/loss": "aux",
    }

    curves: ClassVar[Mapping[str, Sequence[str]]] = {
        "residuals": ("map/residual", "anchor/residual", "correction/residual", "auxiliary/loss"),
        "gradient norms": ("gradient/student", "gradient/auxiliary"),
        "schedules": ("map/t_c", "correction/alpha"),
        "lambda": ("correction/lambda",),
    }

    def __init__(
        self,
        teacher: Teacher,
        network: nn.Module | None = None,
        objective: MapObjective = _OBJECTIVE,
        states: States = _STATES,
        times: TimePair = _TIMES,
        weight: Weight = _WEIGHT,
        anchor_fraction: float = 0.0,
        correction: Correction | None = None,
        **settings: Any,
    ) -> None:
        check_numbers(0, 1, without_high=True, anchor_fraction=anchor_fraction)
        check_settings(objective, states, times, anchor_fraction, correction)
        self.has_auxiliary = correction is not None
        super().__init__(teacher, network, **settings)
        check_differences(objective, self.student, None if self.meta_init else teacher)
        self.objective = objective
        self.states = states
        self.times = times
        self.weight = weight
        self.anchor_fraction = anchor_fraction
        self.correction = correction
        self.alpha = self.alpha_ref
        self.lead = 1.0
        self.t_c = 0.0
        self.tangent_share = 1.0
        self.later_share = 1.0

    @property
    def pairs(self) -> Pairs:
        if self.times.from_prior:
            return Pairs.PRIOR_TO_ANY
        return Pairs.ANY_TO_DATA if self.times.to_data else Pairs.ANY_TO_ANY

    @property
    def starts(self) -> tuple[float, ...] | None:
        return self.times.starts

    @property
    def correction_fraction(self) -> float:
        """Share of the batch that is corrected."""
        return 0.0 if self.correction is None else self.correction.fraction

    @property
    def alpha_ref(self) -> float:
        """Strength of the correction relative to the map's objective, before any AlphaSchedule."""
        return 0.0 if self.correction is None else self.correction.alpha_ref

    # One step

    def draw(self, size: int, generator: Generator) -> FlowMapDraw | CorrectionDraw:
        draws = self.draws(generator)
        if self.correction is not None and not self.moves_student:
            return self._draw_correction(self.correction, draws, size)
        states, corrected = objectives.split_batch(size, self.correction_fraction)
        drawn = self._draw_map(draws, states)
        if self.correction is None:
            return FlowMapDraw(drawn, None)
        return FlowMapDraw(drawn, self._draw_correction(self.correction, draws, corrected))

    def _draw_correction(self, settings: Correction, draws: Draws, size: int) -> CorrectionDraw:
        rows = draw_correction(self, draws, size, settings.r, settings.guidance_interval)
        if settings.starts is None:
            return rows
        later = round(self.later_share * size)
        return draw_starts(self, draws, rows, settings.starts, later, self.t_c)

    def _draw_map(self, draws: Draws, states: int) -> MapDraw:
        """Everything random in so many rows of the map and its anchor."""
        paths, per_path = count_paths(states, self.states.per_path), self.states.per_path
        z, condition = draws.starts(self.states.data, paths)
        gamma = draws.guidance(paths)
        n = draws.noise(states)
        maps, _ = objectives.split_batch(states, self.anchor_fraction)
        objective = self.objective.prepare(maps, draws.host).warm_up(self.tangent_share)
        t, delta = self.times.sample(states, draws.host).move_to_prior(self.t_c)
        off_prior, active = None, None
        if self.skip_idle_rows:  # one row at least on every process: FSDP gathers weights
            device = draws.generator.device
            off_prior = select_rows(t < 1, device, least=1)
            active = select_rows(objective.active_rows(t[:maps], delta[:maps]), device, least=1)
        to = draws.to_device
        path_of = to(torch.arange(states) // per_path) if per_path > 1 else None
        gamma, t, delta = to(gamma), to(t), to(delta[:maps])
        return MapDraw(z, condition, gamma, path_of, n, t, delta, objective, off_prior, active)

    def loss(self, draw: FlowMapDraw | CorrectionDraw) -> Step:
        """< F, sg(w Delta) > on the states, their anchor, and the correction where it starts."""
        if isinstance(draw, CorrectionDraw):
            rows = place_starts(self, draw)
            return learn_noising(self, rows, map_to_data(self, rows))
        m = draw.map
        c = None if draw.correction is None else place_starts(self, draw.correction)
        maps, anchors = place_maps(self, self.states, m)
        outputs = ask_student(self, m, maps, anchors, c)
        residuals = {"map": self._map(m, maps, outputs.get("map"))}
        weighted = [self.weight(residuals["map"], m.delta, self._scales(maps))]
        if "anchor" in outputs:
            residuals["anchor"] = self._anchor(anchors, outputs["anchor"])
            whole = torch.ones_like(anchors.t)  # counts as a map over all times
            weighted.append(self.weight(residuals["anchor"], whole, self._scales(anchors)))
        size = len(m.t)
        loss = torch.cat([each.surrogate() for each in weighted]).sum()
        if c is None:
            return Step(loss / size / self.student_scale, residuals)

        assert self.correction is not None  # rows are drawn for a correction alone
        size = size + len(c.z)
        interval, weight = self.correction.guidance_interval, self.correction.weight
        delta_n, g = correct(self, c, outputs["correction"], interval, weight)
        residuals |= {"correction": delta_n, "auxiliary": g}
        delta_n, g = equalise_over_r(self, delta_n, g, c.r)
        lam = objectives.adaptive_lambda(
            torch.cat([each.norm() for each in weighted]),
            delta_n.norm(),
            self.alpha * self.lead,
            mean_over_ranks=self.mean_over_ranks,
        )
        loss = (loss + lam * delta_n.surrogate().sum()) / size / self.student_scale
        loss = loss + g.surrogate().mean()
        return Step(loss, residuals, {"correction/lambda": lam})

    def _scales(self, rows: MapRows) -> Tensor | None:
        """Guidance scales of the rows; None where nothing is guided."""
        return rows.gamma if self.is_guided else None

    def _map(self, m: MapDraw, maps: MapRows, output: Tensor | None) -> Residual:
        x, condition, gamma, t = maps
        objective = m.objective
        rows = None if objective.evaluates_output else m.active
        F = self.student_at(x, condition, gamma, rows)
        u = self.teacher_at(x, condition, gamma)
        delta = objective.output_delta(t, m.delta)
        return objective.residual(F, u, x, t, delta, output=output)

    def _anchor(self, anchors: MapRows, output: Tensor) -> Residual:
        x, condition, gamma, t = anchors
        F = self.student_at(x, condition, gamma)
        return objectives.anchor(F, self.teacher_at(x, condition, gamma), x, t, output=output)

    # What others ask

    def evaluations_per_sample(self) -> dict[str, float]:
        """Network evaluations that one training sample costs, by network.

        With skip_idle_rows the rows without effect cost less than this.
        """
        corrected = self.correction_fraction
        placed = 1 - corrected
        mapped, anchored = placed * (1 - self.anchor_fraction), placed * self.anchor_fraction
        student = placed * self.states.student_evaluations
        if self.correction is not None:
            student += corrected * self.correction.student_evaluations
        teacher = placed * self.states.teacher_evaluations + anchored + corrected
        evaluations = {
            "student": 1 + mapped * self.objective.student_evaluations + student,
            "teacher": self.branches * (mapped * self.objective.teacher_evaluations + teacher),
        }
        if self.correction is None:
            return evaluations
        alone = {"student": 1 + self.correction.student_evaluations, "auxiliary": 1.0}
        return self.mean_over_turn(evaluations | {"auxiliary": corrected}, alone)

    def figures(self, draw: FlowMapDraw | CorrectionDraw, step: Step) -> dict[str, Tensor | float]:
        if isinstance(draw, CorrectionDraw):
            return auxiliary_figures(step)
        rms = {name: root_mean_square(residual) for name, residual in step.residuals.items()}
        figures = map_figures(rms["map"], draw.map, self.t_c)
        if "anchor" in rms:
            figures["anchor/residual"] = rms["anchor"].mean()
        if draw.correction is not None:
            figures |= correction_figures(step, draw.correction.r, self.alpha * self.lead)
        return figures

    @property
    def auxiliary_training(self) -> AuxiliaryTraining | None:
        if self.correction is None or self.correction.starts is not None:
            return None  # where starts have a law it learns the samples of all, not of the prior's
        r, interval = self.correction.r, self.correction.guidance_interval
        return AuxiliaryTraining(r, interval, self.auxiliary_lr)

    @classmethod
    def unused_in_sampling(cls, arguments: Mapping[str, Any], *, auxiliary: bool) -> dict[str, Any]:
        return {} if auxiliary or arguments.get("lora") else {"correction": None}

    def configure_model(self) -> None:
        check_sharding(self.objective, self.trainer.strategy)
        super().configure_model()
