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
    TimeDistribution,
    check_numbers,
    check_pairs,
    flow_map,
    guided_rows,
    interpolate,
)
from freeflow_lightning.objectives import Residual
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.draws import Draws
from freeflow_lightning.recipes.outputs import Step
from freeflow_lightning.training.step_metrics import mean_by_bin, root_mean_square

R = LogitNormal(0.8, 1.6)  # Table 6


@dataclass(frozen=True)
class Correction:
    """Settings of a correction beside another objective; FreeFlowModule has them as arguments of
    its own.

    Args:
        fraction: share of the batch that is corrected.
        alpha_ref: strength relative to the other objective, before any AlphaSchedule.
        r: law of r.
        guidance_interval: times r inside which the teacher is guided.
    """

    fraction: float = 0.25  # Table 6
    alpha_ref: float = 0.3  # Table 6
    r: TimeDistribution = R
    guidance_interval: tuple[float, float] = (0.0, 0.4)  # Table 6

    def __post_init__(self) -> None:
        check_numbers(0, 1, without_low=True, without_high=True, fraction=self.fraction)
        check_numbers(0, alpha_ref=self.alpha_ref)
        check_pairs(0, 1, guidance_interval=self.guidance_interval)


class CorrectionDraw(NamedTuple):
    """What the correction rows draw; `guided` are the rows whose teacher is guided at r, None for
    all.
    """

    z: Tensor
    condition: Any
    gamma: Tensor
    n: Tensor
    r: Tensor
    guided: Tensor | None = None


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


def correct(
    module: Distillation, draw: CorrectionDraw, output: Tensor
) -> tuple[Residual, Residual]:
    """Delta_N and the auxiliary's residual, from one forward of the auxiliary network at one x_r.

    Args:
        module: the recipe, with an auxiliary network.
        draw: the rows.
        output: F(z, 1) of the student at these rows, with its gradient.
    """
    z, condition, gamma, n, r, guided = draw
    network, training = module.auxiliary, module.auxiliary_training
    assert network is not None  # a recipe without one draws no correction rows
    assert training is not None
    one = torch.ones_like(r)
    f = flow_map(z, output.detach(), one)
    g = network(interpolate(f, n, r).to(z.dtype), r, condition, gamma=gamma)
    F = module.student_at(z, condition, gamma)
    delta_n = objectives.correction(
        lambda z, delta: F(z, one, delta),
        lambda x, r: g.detach(),
        module.teacher_at(z, condition, gamma, training.guidance_interval, guided),
        z,
        n,
        r,
        output=output,
    )
    return delta_n, objectives.auxiliary(network, f, n, r, output=g)


def equalise_over_r(
    module: Distillation, delta_n: Residual, auxiliary: Residual, r: Tensor
) -> tuple[Residual, Residual]:
    """Delta_N on one scale over r, and the auxiliary's residual in units of its network's raw
    output (App. A.2).
    """
    if not module.starts_from_teacher:
        return delta_n, auxiliary
    difference, raw = module.teacher.difference_scale(r), module.teacher.output_scale(r)
    return objectives.equalise(delta_n, difference), objectives.equalise(auxiliary, raw**2)


def correction_figures(step: Step, r: Tensor, alpha: float) -> dict[str, Tensor | float]:
    """What the correction of a step is logged as.

    Args:
        step: with the residuals "correction" and "auxiliary".
        r: the times of the correction rows, [B].
        alpha: the correction's strength at this step, logged where it is balanced.
    """
    rms = root_mean_square(step.residuals["correction"])
    lag = step.residuals["auxiliary"].mean_square().mean()
    figures: dict[str, Tensor | float] = {"correction/residual": rms.mean(), "auxiliary/loss": lag}
    figures |= mean_by_bin("correction/residual_by_r", rms, r)
    if step.scalars:
        figures |= {**step.scalars, "correction/alpha": alpha}
    return figures


def select_rows(mask: Tensor, device: torch.device, least: int = 0) -> Tensor | None:
    """Indices on the device of the rows of a mask on the host, `least` of them at least; None for
    all rows.
    """
    rows = mask.nonzero()[:, 0]
    if len(rows) == len(mask):
        return None
    return (rows if len(rows) >= least else torch.arange(least)).to(device, non_blocking=True)
