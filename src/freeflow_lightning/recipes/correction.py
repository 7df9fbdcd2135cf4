"""The correction of a student's samples as recipes take it: its settings, its draws, its two
residuals.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning import objectives
from freeflow_lightning.flow import (
    LogitNormal,
    StudentPath,
    TimeDistribution,
    Times,
    check_numbers,
    check_pairs,
    flow_map,
    guided_rows,
    interpolate,
)
from freeflow_lightning.objectives import ConstantWeight, Residual, ScoreWeight
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.draws import Draws
from freeflow_lightning.recipes.outputs import Step
from freeflow_lightning.training.step_metrics import mean_by_bin, root_mean_square

R = LogitNormal(0.8, 1.6)  # Table 6
WEIGHT = ConstantWeight()


@dataclass(frozen=True)
class Correction:
    """Settings of a correction beside another objective; FreeFlowModule has them as arguments of
    its own.

    Args:
        fraction: share of the batch that is corrected.
        alpha_ref: strength relative to the other objective, before any AlphaSchedule.
        r: law of r.
        guidance_interval: times r inside which the teacher is guided.
        weight: how much the error v_N - u of each sample counts; DMDWeight makes the correction
            that of distribution matching distillation.
        starts: law of the times t that the corrected maps to data start at, on the student's own
            path; all at the prior if not given. A student of a few steps is corrected at each;
            with LaterStarts, only after a while.
    """

    fraction: float = 0.25  # Table 6
    alpha_ref: float = 0.3  # Table 6
    r: TimeDistribution = R
    guidance_interval: tuple[float, float] = (0.0, 0.4)  # Table 6
    weight: ScoreWeight = WEIGHT
    starts: TimeDistribution | None = None

    @property
    def student_evaluations(self) -> float:
        """Evaluations of the student per corrected row, without gradient, before it is
        corrected.
        """
        return 0 if self.starts is None else 1

    def __post_init__(self) -> None:
        check_numbers(0, 1, without_low=True, without_high=True, fraction=self.fraction)
        check_numbers(0, alpha_ref=self.alpha_ref)
        check_pairs(0, 1, guidance_interval=self.guidance_interval)


class CorrectionDraw(NamedTuple):
    """What the correction rows draw.

    Args:
        z: prior noise, or the states at t that it has been carried to.
        condition: as the teacher draws it.
        gamma: guidance scales.
        n: what noises the samples.
        r: to which times, [B].
        guided: the rows whose teacher is guided at r, None for all.
        t: start times, [B]; None where all are 1.
        off_prior: the rows that start below 1, None for all.
    """

    z: Tensor
    condition: Any
    gamma: Tensor
    n: Tensor
    r: Tensor
    guided: Tensor | None = None
    t: Tensor | None = None
    off_prior: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """Start times of the corrected maps, [B]."""
        return torch.ones_like(self.r) if self.t is None else self.t


def draw_correction(
    module: Distillation,
    draws: Draws,
    size: int,
    law: TimeDistribution,
    interval: tuple[float, float],
) -> CorrectionDraw:
    """Everything random in `size` correction rows.

    Args:
        module: the recipe, which says whether idle rows are skipped.
        draws: the step's random numbers.
        size: rows.
        law: of r.
        interval: times inside which the teacher is guided.
    """
    z, condition, gamma = draws.prior(size)
    n, r = draws.noise(size), law.sample(size, draws.host)
    guided = None
    if module.skip_idle_rows and module.is_guided:
        guided = select_rows(guided_rows(gamma, r, interval), draws.generator.device)
    return CorrectionDraw(z, condition, draws.to_device(gamma), n, draws.to_device(r), guided)


def draw_starts(
    module: Distillation,
    draws: Draws,
    rows: CorrectionDraw,
    law: TimeDistribution,
    later: int,
    t_min: float,
) -> CorrectionDraw:
    """The first `later` rows with start times of a law, moved into [t_min, 1]; the others at 1."""
    t = law.sample(len(rows.r), draws.host)
    t[later:] = 1.0
    t, _ = Times(t, t).move_to_prior(t_min)
    off_prior = None
    if module.skip_idle_rows:  # one row at least on every process: FSDP gathers weights
        off_prior = select_rows(t < 1, draws.generator.device, least=1)
    return rows._replace(t=draws.to_device(t), off_prior=off_prior)


@torch.no_grad()
def place_starts(module: Distillation, rows: CorrectionDraw) -> CorrectionDraw:
    """The rows at the states that they start at: f(z, 1, t), the student's own path."""
    if rows.t is None:
        return rows
    z, condition, gamma = rows.z, rows.condition, rows.gamma
    F = module.student_at(z, condition, gamma, rows.off_prior)
    x = StudentPath().draw(rows.t, F, module.teacher_at(z, condition, gamma), z, rows.n)
    return rows._replace(z=x.to(z.dtype))


def correct(
    module: Distillation,
    rows: CorrectionDraw,
    output: Tensor,
    interval: tuple[float, float],
    weight: ScoreWeight,
) -> tuple[Residual, Residual]:
    """t w Delta_N and the auxiliary's residual, from one forward of the auxiliary network at one x_r.

    The auxiliary network learns the velocity of all the samples f(x_t, t, 0) together, whatever
    their t: where starts have a law, v_N is that of the mixture over it.

    Args:
        module: the recipe, with an auxiliary network.
        rows: what is corrected, at the states that it starts at.
        output: F(x_t, t, 0) of the student at these rows, with its gradient.
        interval: times inside which the teacher is guided.
        weight: w, how much the error of each sample counts.
    """
    x, condition, gamma, n, r = rows[:5]
    network, t = module.auxiliary, rows.start
    assert network is not None  # a recipe without one draws no correction rows
    f = flow_map(x, output.detach(), t)
    g = network(interpolate(f, n, r).to(x.dtype), r, condition, gamma=gamma)
    F = module.student_at(x, condition, gamma)
    delta_n = objectives.correction(
        lambda x, delta: F(x, t, delta),
        lambda x, r: g.detach(),
        module.teacher_at(x, condition, gamma, interval, rows.guided),
        x,
        n,
        r,
        t=t,
        weight=weight,
        output=output,
    )
    return delta_n, objectives.auxiliary(network, f, n, r, output=g)


def equalise_over_r(
    module: Distillation, delta_n: Residual, auxiliary: Residual, r: Tensor
) -> tuple[Residual, Residual]:
    """Return Delta_N on one scale over r (App. A.2), and `equalise_auxiliary`."""
    if module.starts_from_teacher:
        delta_n = objectives.equalise(delta_n, module.teacher.difference_scale(r))
    return delta_n, equalise_auxiliary(module, auxiliary, r)


def equalise_auxiliary(module: Distillation, auxiliary: Residual, r: Tensor) -> Residual:
    """Return the auxiliary's residual in units of its network's raw output (App. A.2), where that
    starts as the teacher's.

    Args:
        module: the recipe.
        auxiliary: its residual, see Eq. 12, as a velocity.
        r: its times, [B].
    """
    if not module.starts_from_teacher:
        return auxiliary
    return objectives.equalise(auxiliary, module.teacher.output_scale(r) ** 2)


def correction_figures(step: Step, r: Tensor, alpha: float) -> dict[str, Tensor | float]:
    """What the correction of a step is logged as.

    Args:
        step: with the residuals "correction" and "auxiliary".
        r: the times of the correction rows, [B].
        alpha: the correction's strength at this step, logged where it is balanced.
    """
    figures = auxiliary_figures(step)
    rms = root_mean_square(step.residuals["correction"])
    figures["correction/residual"] = rms.mean()
    figures |= mean_by_bin("correction/residual_by_r", rms, r)
    if step.scalars:
        figures |= {**step.scalars, "correction/alpha": alpha}
    return figures


def auxiliary_figures(step: Step) -> dict[str, Tensor | float]:
    """Return what a step is logged as in which the auxiliary network alone was trained."""
    return {"auxiliary/loss": step.residuals["auxiliary"].mean_square().mean()}


def select_rows(mask: Tensor, device: torch.device, least: int = 0) -> Tensor | None:
    """Indices on the device of the rows of a mask on the host, `least` of them at least; None for
    all rows.
    """
    rows = mask.nonzero()[:, 0]
    if len(rows) == len(mask):
        return None
    return (rows if len(rows) >= least else torch.arange(least)).to(device, non_blocking=True)
