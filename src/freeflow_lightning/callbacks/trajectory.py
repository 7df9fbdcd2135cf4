"""TrajectoryError: the student against the teacher's ODE for the same noise, at the end and along
delta (Fig. 4).
"""

import math

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from freeflow_lightning.callbacks.checks import check_distillation, refuse_second
from freeflow_lightning.flow import check_counts
from freeflow_lightning.metrics.scores import relative_error
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler


class TrajectoryError(Callback):
    """Logs "error/endpoint", mean |f(z, 1) - x(0)| / |x(0)|, and "error/at_delta_D" along the path,
    at each validation.

    x is the teacher's own ODE solution from the same noise. Falling errors mean that the student
    learns the map; a growing error along delta is the accumulation that the correction objective
    repairs.

    Args:
        count: samples; 128 already gives 1.5 % standard error.
        points: equal values of delta up to 1.
        steps: the teacher's Heun steps, a multiple of `points`.
        seed: seed of the noise.
    """

    def __init__(self, count: int = 256, points: int = 8, steps: int = 64, seed: int = 2) -> None:
        check_counts(1, count=count, points=points, steps=steps)
        check_counts(-math.inf, seed=seed)
        if steps % points:
            raise ValueError(f"expected steps to be a multiple of points, got {steps} and {points}")
        self.count = count
        self.points = points
        self.steps = steps
        self.seed = seed
        self._path: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_distillation(pl_module, self, "compares a student to its teacher")
        refuse_second(trainer, self)

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Distillation) -> None:
        if trainer.sanity_checking:
            return
        index, teacher = torch.arange(self.count), pl_module.teacher
        z, condition = teacher.draw_indexed(
            index, seed=self.seed, stream="trajectory", device=pl_module.device
        )
        if self._path is None:
            sampler = TeacherSampler(teacher, "heun", self.steps, pl_module.evaluation_guidance)
            stride = self.steps // self.points
            # a copy: a part of the path would keep all of it in memory
            self._path = sampler.path(z, condition)[stride::stride].clone()
        deltas = torch.arange(1, self.points + 1, device=z.device) / self.points
        one = torch.ones(len(z), device=z.device)
        gamma = pl_module.evaluation_guidance * one
        maps = [pl_module.flow_map(z, one, one - delta, condition, gamma) for delta in deltas]
        states = torch.stack(maps)
        errors = [
            float(relative_error(x, truth).mean())
            for x, truth in zip(states, self._path, strict=True)
        ]
        figures = {
            f"error/at_delta_{delta:.3f}": error
            for delta, error in zip(deltas.tolist(), errors, strict=True)
        }
        pl_module.log_dict(
            {"error/endpoint": errors[-1]} | figures, rank_zero_only=False, batch_size=1
        )
