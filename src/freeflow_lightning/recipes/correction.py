"""The correction of a student's samples: its settings, its residual, and how the auxiliary learns."""

from dataclasses import dataclass

from torch import Tensor

from freeflow_lightning import objectives
from freeflow_lightning.flow import (
    LogitNormal,
    TimeDistribution,
    Velocity,
    check_numbers,
    check_pairs,
    flow_map,
)
from freeflow_lightning.objectives import ConstantWeight, Residual, ScoreWeight
from freeflow_lightning.recipes.correction_draws import CorrectionDraw
from freeflow_lightning.recipes.distillation import Distillation
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


def noising_velocity(module: Distillation, rows: CorrectionDraw) -> Velocity:
    """G(x_r, r) of the auxiliary network for the samples of these rows, with its gradient.

    A network that is not told the samples' starts learns the velocity of all samples f(x_t, t, 0)
    together: where starts have a law, v_N is that of the mixture over it.

    Args:
        module: the recipe, with an auxiliary network.
        rows: at the states that they start at.
    """
    network = module.auxiliary
    assert network is not None  # a recipe without one draws no correction rows
    told = {"gamma": rows.gamma, "start": rows.start}
    scalars = {name: told[name] for name in module.auxiliary_scalars}
    return lambda x_r, r: network(x_r.to(rows.z.dtype), r, rows.condition, **scalars)


def learn_noising(module: Distillation, rows: CorrectionDraw, output: Tensor) -> Step:
    """Return a step of the auxiliary network alone, see Eq. 12.

    Args:
        module: the recipe, with an auxiliary network.
        rows: at the states that they start at.
        output: what their samples are made of, x0 = x_t + t F, without gradient, [B, ...].
    """
    x0 = flow_map(rows.z, output, rows.start)
    auxiliary = objectives.auxiliary(noising_velocity(module, rows), x0, rows.n, rows.r)
    loss = equalise_auxiliary(module, auxiliary, rows.r).surrogate().mean()
    return Step(loss, {"auxiliary": auxiliary})


def correct(
    module: Distillation,
    rows: CorrectionDraw,
    output: Tensor,
    interval: tuple[float, float],
    weight: ScoreWeight,
) -> tuple[Residual, Residual]:
    """t w Delta_N and the auxiliary's residual, from one forward of the auxiliary network at one x_r.

    Args:
        module: the recipe, with an auxiliary network.
        rows: what is corrected, at the states that it starts at.
        output: F(x_t, t, 0) of the student at these rows, with its gradient.
        interval: times inside which the teacher is guided.
        weight: w, how much the error of each sample counts.
    """
    x, condition, gamma, n, r = rows[:5]
    t = rows.start
    auxiliary = objectives.auxiliary(
        noising_velocity(module, rows), flow_map(x, output.detach(), t), n, r
    )
    delta_n = objectives.correction(
        lambda *_: output,
        lambda *_: auxiliary.output.detach(),
        module.teacher_at(x, condition, gamma, interval, rows.guided),
        x,
        n,
        r,
        t=t,
        weight=weight,
    )
    return delta_n, auxiliary


def match_distribution(
    module: Distillation,
    rows: CorrectionDraw,
    output: Tensor,
    interval: tuple[float, float],
    weight: ScoreWeight,
) -> Step:
    """Return a step of the correction alone, as DMD takes it; arguments as of `correct`."""
    correction, auxiliary = correct(module, rows, output, interval, weight)
    loss = correction.surrogate().mean() / module.student_scale
    loss = loss + equalise_auxiliary(module, auxiliary, rows.r).surrogate().mean()
    return Step(loss, {"correction": correction, "auxiliary": auxiliary})


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
