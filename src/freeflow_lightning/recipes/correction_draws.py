"""What a correction draws: the samples' starts, what noises them, and to which times."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import StudentPath, TimeDistribution, Times, guided_rows
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.draws import Draws, select_rows


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


@torch.no_grad()
def map_to_data(module: Distillation, rows: CorrectionDraw) -> Tensor:
    """F(x_t, t, 0) of the student, without gradient, of rows at the states that they start at."""
    t = rows.start
    return module.student(rows.z, t, rows.condition, delta=t, gamma=rows.gamma)
